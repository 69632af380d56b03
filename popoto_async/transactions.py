"""Several changes at once, all or none: `async with transaction() as tx`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

from popoto_async.changes import STATE, Change, Delete, Insert, Update
from popoto_async.database import Database
from popoto_async.errors import ModelException, PopotoError, ValidationError, shorten
from popoto_async.flight import fly
from popoto_async.plan import WAITED, Operation, Outcome
from popoto_async.planning.write import plan_transaction
from popoto_async.records import State, database_of, is_moving, require_concrete, require_key, stored_texts
from popoto_async.saving import ADMISSION, addition, rewrite, timing
from popoto_async.schema import Binding, Schema

MOST_STEPS = 1000
"""Steps that one transaction may have."""

MOST_COST = 20_000
"""Estimated cost of one transaction: some 240 saves of records with three indexes, which hold the server for about 5 ms
(measured on a small cloud machine), and for 7 where the last of them fails."""

_AGAIN: Outcome = [b"held"]
"""What the others of a transaction are told of a step that has to be planned again."""

COUNTED = "_counted"
"""In the state that a step expects of an instance: the numbers that earlier steps add to on the server."""


class Step(NamedTuple):
    """What is to be done with an instance, and how the change is made from its state and the time."""

    instance: Any
    verb: str
    make: Callable[[Schema, State, float], Change]


class Together:
    """Several changes as one request. Their databases' slot tables are read as the changes are planned."""

    def __init__(self, database: Database, steps: list[Step], now: float) -> None:
        self._database, self._steps = database, steps
        self._changes: list[Change] = []
        self.waits = any(is_moving(step.instance.__dict__) for step in steps)
        latest: dict[int, Change] = {}
        try:
            for step in steps:
                latest[id(step.instance)] = change = step.make(step.instance._meta, self._state(step, latest), now)
                self._changes.append(change)
        except BaseException as error:
            self.withdraw()
            if isinstance(error, PopotoError):
                self._name(error, len(self._changes))
            raise
        self.schema: Schema = self._changes[0].schema

    def _state(self, step: Step, latest: Mapping[int, Change]) -> State:
        """What a step finds: the instance as it is, or as the latest one about it will have left it."""
        earlier = latest.get(id(step.instance))
        return _expected(earlier, self._database.binding(earlier.schema)) if earlier else step.instance.__dict__

    def plan(self, binding: Binding) -> Operation:
        """Every change under the slot table of its own class. ModelException where it is too much for one call."""
        operation = plan_transaction([change.plan(self._database.binding(change.schema)) for change in self._changes])
        if operation.cost > MOST_COST and len(self._changes) > 1:
            raise ModelException(
                f"a transaction of {len(self._changes)} steps holds the server for too long: its estimated cost is "
                f"{operation.cost}, and at most {MOST_COST} (some 240 saves of records with three indexes)",
                hint="divide it: save_many() does what need not happen all at once",
            )
        return operation

    def overtaken(self, outcome: Outcome) -> Schema:
        """Planned again as a whole; the step that an outcome is about stands at its end."""
        if outcome is WAITED:
            latest: dict[int, Change] = {}
            for step, change in zip(self._steps, self._changes, strict=True):
                change.state = self._state(step, latest)
                change.overtaken(outcome)
                latest[id(step.instance)] = change
            return self.schema
        about = self._changes[outcome[-1] - 1 if len(outcome) > 2 else 0]
        for change in self._changes:
            change.overtaken(outcome if change is about else _AGAIN)
        return about.schema

    def conclude(self, outcome: Outcome, binding: Binding) -> None:
        """The changes were made, or raise the error of the step that failed."""
        if outcome[0] == b"ok":
            for step, change, done in zip(self._steps, self._changes, outcome[1], strict=True):
                state = step.instance.__dict__
                change.state = state
                change.settle(done)
            return
        number, failed = (outcome[1] - 1, outcome[2]) if outcome[0] == b"failed" else (0, outcome)
        change = self._changes[number]
        self.withdraw()
        error = change.failure(failed, self._database.binding(change.schema))
        self._name(error, number)
        raise error

    def withdraw(self) -> None:
        """None of the changes was made."""
        for change in reversed(self._changes):
            change.withdraw()

    def _name(self, error: PopotoError, number: int) -> None:
        step = self._steps[number]
        key = step.instance.__dict__.get("_key")
        what = f"{step.verb} of {step.instance._meta.model}{f' {key!r}' if key else ''}"
        error.step = number + 1
        error.add_note(f"step {number + 1} of {len(self._steps)} ({what}): nothing of the transaction was done")


def _expected(change: Change, binding: Binding) -> State:
    """The state of an instance when this change will have been made, for the next step that is about it."""
    change.plan(binding)  # which says under which key
    state = {**change.state, **change.stamps, "_key": change.key}
    state.pop("_version", None)  # the script carries out both: nobody can come between them
    if isinstance(change, Delete):
        for name in STATE:
            state.pop(name, None)
    elif isinstance(change, Insert):
        state["_stored"] = change.encoded
    elif isinstance(change, Update):
        stored = state["_stored"] = {**stored_texts(change.schema, change.state), **change.changed}
        if change.add:
            name = change.add.field
            raw = stored.get(name)
            state[name] = None if raw is None else change.schema.fields[name].codec.decode(raw)
            state[COUNTED] = (*state.get(COUNTED, ()), name)
    return state


class Transaction:
    """Collects changes; they are sent together when the block ends."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._over = False

    def save(self, instance: Any, *, if_exists: Literal["overwrite", "error"] = "overwrite") -> None:
        """Save this instance with the rest, as it is when the block ends."""
        if if_exists not in ("overwrite", "error"):
            raise ValidationError(f'if_exists is "overwrite" or "error", not {shorten(if_exists)}', value=if_exists)

        def make(schema: Schema, state: State, now: float) -> Change:
            if state.get("_key") is not None:
                return Update(schema, state, now, if_exists=if_exists, timing=timing(schema))
            if COUNTED in state:
                raise ModelException(
                    f"{schema.model}: {state[COUNTED][0]} was incremented before the record was deleted in this "
                    "transaction, so the value to store is not known",
                    model=schema.model,
                    field=state[COUNTED][0],
                    hint="increment after the save",
                )
            return Insert(schema, state, now, if_exists=if_exists, timing=timing(schema))

        self._add(instance, "save", make)

    def delete(self, instance: Any) -> None:
        """Delete this record with the rest."""

        def make(schema: Schema, state: State, now: float) -> Change:
            require_key(schema, state)
            return Delete(schema, state)

        self._add(instance, "delete", make)

    def increment(self, instance: Any, field: str, by: Any = 1) -> None:
        """Add to a number of this record with the rest; the instance has the sum when the block has ended."""

        def make(schema: Schema, state: State, now: float) -> Change:
            add = addition(schema, state, field, by)
            return Update(schema, state, now, names=frozenset(), timing=timing(schema), add=add)

        self._add(instance, "increment", make)

    def _add(self, instance: Any, verb: str, make: Callable[[Schema, State, float], Change]) -> None:
        if isinstance(instance, type) or not hasattr(type(instance), "_meta"):
            raise ValidationError(f"a transaction takes instances of models, not {shorten(instance)}", value=instance)
        require_concrete(instance._meta)
        if self._over:
            raise ModelException(
                f"{instance._meta.model}: the transaction is over", hint="all its steps belong into its block"
            )
        if len(self._steps) == MOST_STEPS:
            raise ModelException(
                f"a transaction has at most {MOST_STEPS} steps",
                hint="divide it: save_many() does what need not happen all at once",
            )
        self._steps.append(Step(instance, verb, make))

    def end(self) -> None:
        """No more steps are taken."""
        self._over = True

    async def commit(self, timeout: float | None) -> None:
        """Send what was collected; the block's end does that."""
        steps = self._steps
        if not steps:
            return
        databases = {id(database): database for database in (database_of(step.instance._meta) for step in steps)}
        if len(databases) > 1:
            raise ModelException("a transaction can't span databases", hint="use one transaction for each database")
        database = next(iter(databases.values()))
        for step in steps:
            if step.verb != "increment":
                await (step.instance.before_save() if step.verb == "save" else step.instance.before_delete())
        began = asyncio.get_running_loop().time()

        def prepare(now: float) -> Together:
            return Together(database, steps, now)

        await fly("popoto_async", "transaction", database, ADMISSION * len(steps), timeout, prepare)
        for step in steps:
            await rewrite(step.instance._meta, step.instance.__dict__, timeout, began)
        for step in steps:
            if step.verb != "increment":
                await (step.instance.after_save() if step.verb == "save" else step.instance.after_delete())


@asynccontextmanager
async def transaction(*, timeout: float | None = None) -> AsyncIterator[Transaction]:
    """Changes of several records that happen together or not at all, in one round trip when the block ends.

    An exception in the block sends nothing. The steps are carried out in their order, each on what the earlier ones
    left. One that fails (a unique conflict, a record gone, …) undoes the others and raises its error; its `step` is its
    number. Instances are as they were then. All records must be in one database.
    """
    tx = Transaction()
    try:
        yield tx
    finally:
        tx.end()
    await tx.commit(timeout)
