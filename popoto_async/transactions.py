"""Several changes at once, all or none: `async with transaction() as tx`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from popoto_async.changes import Change, Delete, Insert, Update
from popoto_async.database import Database
from popoto_async.errors import ModelException, ValidationError, shorten
from popoto_async.flight import fly
from popoto_async.plan import Operation, Outcome
from popoto_async.planning.write import plan_transaction
from popoto_async.records import database_of, failure, require_concrete, require_key
from popoto_async.saving import ADMISSION, timing
from popoto_async.schema import Binding


class Together:
    """Several changes as one request. Their databases' slot tables are read as the changes are planned."""

    def __init__(self, database: Database, changes: list[Change]) -> None:
        self.schema = changes[0].schema
        self._database, self._changes = database, changes

    def plan(self, binding: Binding) -> Operation:
        """Every change under the slot table of its own class."""
        return plan_transaction([change.plan(self._database.binding(change.schema)) for change in self._changes])

    def overtaken(self, row: list[Any]) -> None:
        """Planned again as a whole: `conclude` has told the change that was overtaken."""

    def conclude(self, outcome: Outcome, binding: Binding) -> bool:
        """Whether the changes were made; False where they have to be planned again."""
        if outcome[0] == b"ok":
            for change, done in zip(self._changes, outcome[1], strict=True):
                change.settle(done)
            return True
        change, failed = self._changes[0], outcome
        if outcome[0] == b"failed":
            change, failed = self._changes[outcome[1] - 1], outcome[2]
        if failed[0] == b"slots":
            self._database.rebind(change.schema, failed[1].decode())
            return False
        if failed[0] == b"moved":
            change.overtaken(failed[1])
            return False
        self.withdraw()
        raise failure(change.schema, change.key, change.state, failed, self._database.binding(change.schema))

    def withdraw(self) -> None:
        """None of the changes was made."""
        for change in self._changes:
            change.withdraw()


class Transaction:
    """Collects saves and deletes; they are sent together when the block ends."""

    def __init__(self) -> None:
        self._steps: list[tuple[Any, str, str]] = []

    def save(self, instance: Any, *, if_exists: str = "overwrite") -> None:
        """Save this instance with the rest, as it is when the block ends."""
        _require_record(instance)
        require_concrete(instance._meta)
        self._steps.append((instance, "save", if_exists))

    def delete(self, instance: Any) -> None:
        """Delete this record with the rest."""
        _require_record(instance)
        self._steps.append((instance, "delete", ""))

    async def commit(self, timeout: float | None) -> None:
        """Send what was collected; the block's end does that."""
        if not self._steps:
            return
        databases = {id(database): database for database in (database_of(step[0]._meta) for step in self._steps)}
        if len(databases) > 1:
            raise ModelException("a transaction can't span databases", hint="use one transaction for each database")
        database = next(iter(databases.values()))
        for instance, verb, _ in self._steps:
            await (instance.before_save() if verb == "save" else instance.before_delete())
        request: Together | None = None

        def prepare(now: float) -> Together:
            nonlocal request
            request = request or Together(database, _changes(self._steps, now))
            return request

        while not await fly("popoto_async", "transaction", database, prepare, ADMISSION * len(self._steps), timeout):
            continue
        for instance, verb, _ in self._steps:
            await (instance.after_save() if verb == "save" else instance.after_delete())


def _require_record(instance: Any) -> None:
    if not hasattr(type(instance), "_meta"):
        raise ValidationError(f"a transaction takes instances of models, not {shorten(instance)}", value=instance)


def _changes(steps: list[tuple[Any, str, str]], now: float) -> list[Change]:
    changes: list[Change] = []
    try:
        for instance, verb, if_exists in steps:
            schema, state = instance._meta, instance.__dict__
            if verb == "delete":
                require_key(schema, state)
                changes.append(Delete(schema, state))
            else:
                kind = Update if instance.is_saved else Insert
                changes.append(kind(schema, state, now, if_exists=if_exists, timing=timing(schema)))
    except BaseException:
        for change in changes:
            change.withdraw()
        raise
    return changes


@asynccontextmanager
async def transaction(*, timeout: float | None = None) -> AsyncIterator[Transaction]:
    """Saves and deletes that happen together or not at all, in one round trip when the block ends.

    An exception in the block sends nothing. A change that fails (a unique conflict, a record gone, …) undoes the others
    and raises its error. All records must be in one database.
    """
    tx = Transaction()
    yield tx
    await tx.commit(timeout)
