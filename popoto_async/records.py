"""One record's way to the server and back: needs → plan → dispatch → outcome.

A record's state lives in the instance's `__dict__`: its values by field name, and private entries:

| entry | what |
|---|---|
| `_stored` | what was last read or written: a text by field, or the row as it came; missing while the instance is new |
| `_key` | the key under which it is stored; None while the instance is new |
| `_version` | its version, where `Meta.versioned` |
| `_stub` | what to write to load it, while it is a stub, which knows its key alone |
| `_moved` | the key it had, while records that refer to it have yet to be told its new one |
| `_under_way` | how many saves under way write a field, by its name, or the key or version (`MOVING`); if any do |
| `_shown` | the times that fields which follow the clock were given by the last save; only where there are any |
| `_corrupt` | stored bytes that could not be decoded, by field; only where there are any |
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from types import MappingProxyType
from typing import Any

from popoto_async.database import Database, resolve
from popoto_async.errors import (
    DefinitionError,
    ModelException,
    NotFound,
    ValidationError,
)
from popoto_async.flight import Independent, fly
from popoto_async.outcomes import failure
from popoto_async.plan import Operation, Outcome
from popoto_async.planning.write import plan_load
from popoto_async.schema import Binding, Schema

LOAD_ADMISSION = 18
"""Estimated cost of a load to this process, in microseconds."""

MOVING = "$"
"""In place of a field's name: the record's key or version, on which all later verbs of the instance build."""

Planner = Callable[[Binding], Operation]
State = dict[str, Any]
Texts = Sequence[Any]
"""The stored texts of a record in the order of the columns asked for."""


def database_of(schema: Schema) -> Database:
    """The database that a model uses now."""
    return resolve(schema.options.database)


def is_moving(state: Mapping[str, Any]) -> bool:
    """Whether a save that is not answered yet changes the record's key or version."""
    return MOVING in state.get("_under_way", ())


def require_concrete(schema: Schema) -> None:
    """Abstract models have no records."""
    if schema.options.abstract:
        raise DefinitionError(
            f"{schema.model} is abstract and has no records", model=schema.model, hint="use a subclass of it"
        )


class Load(Independent):
    """The request for one record by its key."""

    def __init__(self, now: float, cls: Any, values: Mapping[str, Any]) -> None:
        self.schema: Schema = cls._meta
        self._cls, self._values, self._key = cls, values, ""
        require_concrete(self.schema)

    def plan(self, binding: Binding) -> Operation:
        """By its key alone."""
        values = self._values
        self._key = binding.keys.record([field.key_part(values[field.name]) for field in self.schema.keys])
        return plan_load(binding, self._key)

    def conclude(self, outcome: Outcome, binding: Binding) -> Any:
        """The instance, or None."""
        if outcome[0] != b"ok":
            raise failure(self.schema, self._key, {}, outcome, binding)
        row = outcome[1:]
        return fill(self._cls, self._key, row) if row else None


_NO_INSTANCE: Mapping[str, Any] = MappingProxyType({})


class Ask(Independent):
    """A request whose outcome the asker reads himself: (status, outcome, binding)."""

    def __init__(self, now: float, schema: Schema, plan: Planner, state: Mapping[str, Any] = _NO_INSTANCE) -> None:
        self.schema = schema
        self.plan = plan
        self.waits = is_moving(state)

    def conclude(self, outcome: Outcome, binding: Binding) -> tuple[bytes, Outcome, Binding]:
        """The outcome as it is."""
        return outcome[0], outcome, binding


def ask(
    name: str,
    schema: Schema,
    plan: Planner,
    *,
    cost: int,
    timeout: float | None = None,
    state: Mapping[str, Any] = _NO_INSTANCE,
) -> Coroutine[Any, Any, tuple[bytes, Outcome, Binding]]:
    """Plan and send; the status, the outcome, and the binding it was planned under. `state` is whose key is planned."""
    return fly(schema.model, name, database_of(schema), cost, timeout, Ask, schema, plan, state)


def load(cls: Any, given: Mapping[str, Any], timeout: float | None = None) -> Coroutine[Any, Any, Any]:
    """The record with these key values, or None."""
    schema: Schema = cls._meta
    return fly(schema.model, "load", database_of(schema), LOAD_ADMISSION, timeout, Load, cls, given)


async def load_by_key(cls: Any, key: str, timeout: float | None = None) -> Any:
    """The record under a key, or None."""
    schema: Schema = cls._meta
    status, outcome, binding = await ask(
        "load", schema, lambda bound: plan_load(bound, key), cost=LOAD_ADMISSION, timeout=timeout
    )
    if status != b"ok":
        raise failure(schema, key, {}, outcome, binding)
    return fill(cls, key, outcome[1:]) if len(outcome) > 1 else None


# Values --------------------------------------------------------------------------------------------------------------


def problems(schema: Schema, state: State, names: frozenset[str] | None = None) -> dict[str, list[str]]:
    """What is wrong with the values, by field."""
    found = {}
    for name, field in schema.fields.items():
        if (names is None or name in names) and name in state and (messages := field.problems(state[name])):
            found[name] = messages
    return found


def encode(schema: Schema, state: State, names: frozenset[str] | None = None) -> list[Any]:
    """The stored texts of all fields, None for null. ValidationError unless those of `names` can be stored.

    Bytes that could not be decoded stay what they are.
    """
    row = []
    for name, checked in schema.encoders:
        value = state.get(name)
        text = None if value is None else checked(value)
        if text is None and (names is None or name in names) and (value is not None or name in state):
            field = schema.fields[name]
            if value is not None or not (field.null or field.stamps):
                raise invalid(schema, state, names)
        row.append(text)
    corrupt = state.get("_corrupt")
    if corrupt:
        row = [text if name in state else corrupt.get(name) for name, text in zip(schema.fields, row, strict=True)]
    return row


def invalid(schema: Schema, state: State, names: frozenset[str] | None = None) -> ValidationError:
    """The error of values that can't be stored."""
    errors = problems(schema, state, names)
    name, messages = next(iter(errors.items()))
    more = f" (and {len(errors) - 1} more fields)" if len(errors) > 1 else ""
    return ValidationError(
        f"{schema.model}.{name}: {messages[0]}{more}",
        errors=errors,
        model=schema.model,
        field=name,
        value=state.get(name),
        hint="nothing was sent; m.errors() lists everything that is wrong",
    )


def require_key(schema: Schema, state: State) -> None:
    """ValidationError where a new instance's values can't make a key."""
    if state.get("_key") is None and problems(schema, state, schema.key_names):
        raise invalid(schema, state, schema.key_names)


def fill(cls: Any, key: str, row: Texts) -> Any:
    """An instance from the stored texts of a schema's columns (None: null)."""
    schema: Schema = cls._meta
    instance = cls.__new__(cls)
    state: State = instance.__dict__
    state["_key"], state["_stored"] = key, row
    try:
        for name, decode, raw in zip(schema.columns, schema.decoders, row, strict=False):
            state[name] = None if raw is None else decode(raw)
    except DefinitionError:  # of a class that is not defined: what is stored may well be right
        raise
    except Exception:  # whatever a decoder raises, the bytes are not a value; the other fields stay readable
        _fill_readable(schema, state, row)
    if schema.options.versioned:
        version = row[len(schema.fields)]
        state["_version"] = None if version is None else version.decode()
    return instance


def fill_all(cls: Any, found: Sequence[tuple[bytes, Texts]]) -> list[Any]:
    """The instances of records given by key and row, which are as wide as one another: decoded by columns."""
    schema: Schema = cls._meta
    columns = list(zip(*[row for _, row in found], strict=True))
    instances = list(map(cls.__new__, repeat(cls, len(found))))
    states: list[State] = [instance.__dict__ for instance in instances]
    for state, (key, row) in zip(states, found, strict=True):
        state["_key"], state["_stored"] = key.decode(), row
    try:
        for (name, field), column in zip(schema.fields.items(), columns, strict=False):
            for state, value in zip(states, field.codec.decode_all(column), strict=True):
                state[name] = value
    except Exception:  # one that raises it again, or whose other fields stay readable
        return [fill(cls, key.decode(), row) for key, row in found]
    if schema.options.versioned and found:
        for state, version in zip(states, columns[len(schema.fields)], strict=True):
            state["_version"] = None if version is None else version.decode()
    return instances


def _fill_readable(schema: Schema, state: State, row: Texts) -> None:
    for name, decode, raw in zip(schema.columns, schema.decoders, row, strict=False):
        try:
            state[name] = None if raw is None else decode(raw)
        except Exception:  # as above
            state.setdefault("_corrupt", {})[name] = raw


def stored_texts(schema: Schema, state: State) -> dict[str, Any]:
    """The stored text of each field of an instance, as last read or written; none of a new one. Few are asked."""
    stored: dict[str, Any] | Texts = state.get("_stored", {})
    return dict(stored) if isinstance(stored, dict) else dict(zip(schema.fields, stored, strict=False))


def stored_values(schema: Schema, texts: Mapping[str, bytes | None]) -> State:
    """The values of stored texts by field; None, as for null, where the bytes are no value."""
    values: State = dict.fromkeys(texts)
    for name, text in texts.items():
        if text is not None:
            with suppress(Exception):  # whatever a decoder raises; who reads the field is told of it
                values[name] = schema.fields[name].codec.decode(text)
    return values


def not_found(schema: Schema, asked: str) -> NotFound:
    """The error of a lookup that nothing matches."""
    return NotFound(
        f"{schema.model}: nothing matches {asked}", model=schema.model, hint="get() gives None in place of this error"
    )


def require_stored(schema: Schema, state: State, verb: str) -> str:
    """The key of a stored record; ModelException where the instance is new."""
    key = state.get("_key")
    if key is None:
        raise ModelException(
            f"{schema.model}: {verb}() needs a saved instance, and this one is new",
            model=schema.model,
            hint="await m.save() first",
        )
    return str(key)
