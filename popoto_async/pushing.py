"""Pushing to a capped list: the one verb of a list beside its record."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from popoto_async.errors import CorruptRecord
from popoto_async.flight import Independent, fly
from popoto_async.outcomes import failure
from popoto_async.plan import Operation, Outcome
from popoto_async.planning.lists import plan_push
from popoto_async.records import State, database_of, is_moving, require_stored, stored_texts
from popoto_async.schema import Binding, Schema

ADMISSION = 20
"""Estimated cost of planning a push, in microseconds of this process."""


class Push(Independent):
    """One item on its way to the front of a list."""

    def __init__(self, now: float, schema: Schema, state: State, name: str, items: list[Any], value: Any) -> None:
        self.schema = schema
        self._state, self._items = state, items
        self._field: Any = schema.fields[name]
        self._key = require_stored(schema, state, "push")
        self.waits = is_moving(state)
        self._text: bytes = self._field.pushed(items, value)

    def plan(self, binding: Binding) -> Operation:
        """The item, and where it goes."""
        self._key = self._state.get("_key") or self._key
        return plan_push(binding, self._key, self._field.name, self._text, self._field.limit)

    def conclude(self, outcome: Outcome, binding: Binding) -> int:
        """The length on the server; the instance's list, and what it remembers of the stored one, get the item too."""
        name, key = self._field.name, self._key
        if outcome[0] == b"declined":
            raise CorruptRecord(
                f"{self.schema.model}.{name}: {key!r} has a list from before the field had max_length",
                model=self.schema.model,
                field=name,
                key=key,
                hint="save() the record once, which moves the list out of it",
            )
        if outcome[0] != b"ok":
            raise failure(self.schema, key, self._state, outcome, binding)
        self._field.after_push(self._items, self._text)
        if self._state.get("_key") == key:
            stored = self._state["_stored"] = stored_texts(self.schema, self._state)
            stored[name] = [self._text, *(stored.get(name) or ())][: self._field.limit]
        return int(outcome[1])


def push(
    schema: Schema, state: State, name: str, items: list[Any], value: Any, timeout: float | None
) -> Coroutine[Any, Any, int]:
    """Put a value before the items of a capped list; its length on the server."""
    return fly(
        schema.model,
        f"{name}.push",
        database_of(schema),
        ADMISSION,
        timeout,
        Push,
        schema,
        state,
        name,
        items,
        value,
    )
