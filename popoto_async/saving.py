"""Saving, deleting, counting up and expiring one record: the verbs of an instance, on its state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from popoto_async.changes import Change, Delete, Insert, Update, forget
from popoto_async.codec import EPOCH, as_utc
from popoto_async.database import require_seconds
from popoto_async.declaration import require_field
from popoto_async.errors import (
    AlreadyExists,
    OutcomeUnknown,
    Overloaded,
    RecordGone,
    Unavailable,
    ValidationError,
    shorten,
)
from popoto_async.flight import fly
from popoto_async.outcomes import failure
from popoto_async.plan import Operation
from popoto_async.planning.relations import plan_rewrite
from popoto_async.planning.write import Addition, plan_expire, plan_load
from popoto_async.records import State, ask, database_of, require_concrete, require_stored, stored_texts
from popoto_async.schema import Binding, Schema

T = TypeVar("T")

ADMISSION = 45
"""Estimated cost of a save to this process, in microseconds."""


def timing(schema: Schema, expire_in: float | None = None, expire_at: datetime | None = None) -> dict[str, Any]:
    """When a save has the record expire, for a script: as asked, else as `Meta.ttl` says, else as it is."""
    if expire_in is not None and expire_at is not None:
        raise ValidationError(
            f"{schema.model}: expire_in={shorten(expire_in)} and expire_at={shorten(expire_at)} are two deadlines",
            model=schema.model,
            value=(expire_in, expire_at),
            hint="give one of them",
        )
    if expire_at is not None:
        return ending_at(schema, expire_at)
    seconds = schema.options.ttl if expire_in is None else expire_in
    return {} if seconds is None else ending_in(schema, seconds)


def ending_at(schema: Schema, when: Any) -> dict[str, Any]:
    """A deadline for a script, in ms of 1970."""
    if not isinstance(when, datetime):
        raise ValidationError(
            f"{schema.model}: expire_at takes a datetime, not {shorten(when)}", model=schema.model, value=when
        )
    try:
        instant = as_utc(when)
    except OverflowError as error:
        raise ValidationError(
            f"{schema.model}: expire_at={shorten(when)}: {error} in UTC", model=schema.model, value=when
        ) from error
    return {"deadline": str((instant - EPOCH) // timedelta(milliseconds=1))}


def ending_in(schema: Schema, seconds: Any) -> dict[str, Any]:
    """A deadline for a script, in ms from the save."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 2**40:
        raise ValidationError(
            f"{schema.model}: a record expires in a positive number of seconds, not {shorten(seconds)}",
            model=schema.model,
            value=seconds,
        )
    return {"ttl": max(1, round(seconds * 1000))}


def create(cls: Any, values: dict[str, Any], *, if_exists: str, timeout: float | None) -> Coroutine[Any, Any, Any]:
    """Construct and store; the instance."""
    schema: Schema = cls._meta
    return fly(schema.model, "create", database_of(schema), ADMISSION, timeout, _insert, schema, cls, values, if_exists)


def _insert(now: float, schema: Schema, cls: Any, values: dict[str, Any], if_exists: str) -> Insert:
    require_concrete(schema)
    instance = cls(**values)
    return Insert(schema, instance.__dict__, now, value=instance, if_exists=if_exists, timing=timing(schema))


def save(
    schema: Schema,
    state: State,
    *,
    update_fields: Collection[str] | None,
    if_exists: str,
    expiry: Callable[[], Mapping[str, Any]],
    timeout: float | None,
) -> Coroutine[Any, Any, bool]:
    """Insert or update, as the instance is new or stored."""

    def prepare(now: float) -> Change:
        require_concrete(schema)
        timing = expiry()
        if state.get("_key") is None:
            return Insert(schema, state, now, if_exists=if_exists, timing=timing)
        names = None if update_fields is None else frozenset(update_fields)
        return Update(schema, state, now, names=names, if_exists=if_exists, timing=timing)

    return fly(schema.model, "save", database_of(schema), ADMISSION, timeout, prepare)


def known_fields(schema: Schema, names: Collection[str]) -> None:
    """Raise for a name that is no field."""
    given: Any = names
    if isinstance(given, str) or not isinstance(given, Collection):
        raise ValidationError(
            f"{schema.model}: update_fields is a list of names, not {shorten(given)}", model=schema.model, value=given
        )
    for name in names:
        require_field(schema, name)


async def save_or_create(
    schema: Schema, state: State, save: Callable[..., Coroutine[Any, Any, bool]], if_exists: str
) -> bool:
    """Save a record; store it whole where it is gone, and save it again where it came back meanwhile."""
    while True:
        key = state.get("_key")
        try:
            return await save(if_exists=if_exists)
        except RecordGone:
            if state.get("_key") not in (key, None):
                continue  # another save of it has moved it meanwhile
            unknown = schema.fields.keys() - state.keys()
            stored = forget(schema, state)
        # Under its own key it may have come back meanwhile; what stands under another key is another record.
        moved = database_of(schema).binding(schema).record_key(state) != key
        try:
            return await save(if_exists=if_exists if moved else "error")
        except BaseException as error:
            if state.get("_key") is None:
                for name in unknown:  # to a stub, which has to stay one
                    if state.get(name) is None:
                        state.pop(name, None)
                state.update(stored)
            if moved or not isinstance(error, AlreadyExists):
                raise


def delete(schema: Schema, state: State, timeout: float | None) -> Coroutine[Any, Any, bool]:
    """Remove the record; afterwards the instance is new again. Whether it existed."""
    if schema.referrers:
        change = Delete(schema, state)
        return delete_in_parts(
            schema,
            timeout,
            lambda seconds: fly(schema.model, "delete", database_of(schema), ADMISSION, seconds, lambda now: change),
        )
    return fly(schema.model, "delete", database_of(schema), ADMISSION // 2, timeout, _delete, schema, state)


def _delete(now: float, schema: Schema, state: State) -> Delete:
    return Delete(schema, state)


async def in_parts(
    schema: Schema,
    timeout: float | None,
    part: Callable[[float | None], Awaitable[T | None]],
    *,
    since: float | None = None,
    hint: str,
) -> T:
    """Send one part after the other until one comes to something, all within the time of one call.

    Only the first can fail with nothing done; none where the verb has begun, `since` that time of the loop's clock. Of
    the others, OutcomeUnknown says that what they are parts of is begun, and the hint, how it is finished.
    """
    seconds = database_of(schema).settings.timeout if timeout is None else timeout
    require_seconds("timeout", seconds)
    clock = asyncio.get_running_loop().time
    begun, since = since is not None, clock() if since is None else since
    while True:
        try:
            done = await part(None if seconds is None else max(0.0, round(since + seconds - clock(), 3)))
        except (Unavailable, Overloaded, OutcomeUnknown) as error:
            if not begun:
                raise
            raise OutcomeUnknown(
                f"{schema.model}: a part was done before this: {error}", model=schema.model, key=error.key, hint=hint
            ) from error
        if done is not None:
            return done
        begun = True


async def rewrite(schema: Schema, state: State, timeout: float | None, since: float) -> None:
    """Tell the rest of the records that refer to this one its new key, where one call was not enough for all.

    `since` is when the save began: all of it is one call to those who wait.
    """
    key = state.pop("_moved", None)
    if key is None:
        return

    async def part(seconds: float | None) -> bool | None:
        status, outcome, binding = await ask(
            "save", schema, lambda bound: plan_rewrite(bound, str(key)), cost=ADMISSION, timeout=seconds
        )
        if status != b"ok":
            raise failure(schema, state.get("_key") or "", state, outcome, binding)
        return None if outcome[1] else True

    finish = f"the record is saved; maintenance.repair({schema.model}) brings the rest of the references to its new key"
    await in_parts(schema, timeout, part, since=since, hint=finish)


async def delete_in_parts(
    schema: Schema, timeout: float | None, part: Callable[[float | None], Awaitable[bool | None]]
) -> bool:
    """One call where few records go or change with it; else as many as it takes, the record itself in the last."""
    return await in_parts(schema, timeout, part, hint="delete it again, which goes on where this ended")


async def expire(schema: Schema, state: State, expiry: Mapping[str, Any], verb: str, timeout: float | None) -> None:
    """Give the record a deadline, or take it away."""
    key = require_stored(schema, state, verb)

    def plan(bound: Binding) -> Operation:
        nonlocal key
        key = state.get("_key") or key
        return plan_expire(bound, key, expiry)

    status, outcome, binding = await ask(verb, schema, plan, cost=ADMISSION // 2, timeout=timeout, state=state)
    if status != b"ok":
        raise failure(schema, key, state, outcome, binding)


def increment(schema: Schema, state: State, name: str, by: Any, timeout: float | None) -> Coroutine[Any, Any, Any]:
    """Add to a number on the server; the sum, which the instance has then too."""

    def prepare(now: float) -> Update:
        add = addition(schema, state, name, by)
        return Update(schema, state, now, names=frozenset(), timing=timing(schema), add=add)

    return fly(schema.model, "increment", database_of(schema), ADMISSION, timeout, prepare)


def addition(schema: Schema, state: State, name: str, by: Any) -> Addition:
    """A number to add, checked."""
    known_fields(schema, (name,))
    field = schema.fields[name]
    key = require_stored(schema, state, "increment")
    if field.type not in (int, float, Decimal) or field.is_key:
        problem, hint = "only an int, float or Decimal that is no key can be incremented", None
    elif field.choices is not None or field.validators:
        problem = "a field with choices or validators can't be incremented on the server"
        hint = "assign the sum and save() it, with Meta.versioned against races"
    else:
        by = field.normalise(by)
        wrong = field.problems(by) if by is not None else ["must be a number, not None"]
        if not wrong and (by.is_finite() if isinstance(by, Decimal) else by - by == 0):
            return Addition(name, field.codec.encode(by).decode(), field.type is float)
        problem, hint = f"increment by {shorten(by)}: {(wrong or ['must be finite'])[0]}", None
    raise ValidationError(
        f"{schema.model}.{name}: {problem}", model=schema.model, field=name, key=key, value=by, hint=hint
    )


async def refresh(schema: Schema, state: State, names: Collection[str], timeout: float | None) -> None:
    """Read the record, or some fields of it, again."""
    key = require_stored(schema, state, "refresh")
    known_fields(schema, names)
    wanted = list(names or schema.fields)
    before = {name: state.get(name) for name in wanted}
    columns = [*wanted, "$v"]

    def plan(bound: Binding) -> Operation:
        nonlocal key
        key = state.get("_key") or key
        return plan_load(bound, key, columns)

    status, outcome, binding = await ask("refresh", schema, plan, cost=ADMISSION // 2, timeout=timeout, state=state)
    if status != b"ok":
        raise failure(schema, key, state, outcome, binding)
    if len(outcome) == 1:
        raise failure(schema, key, state, [b"gone"], binding)
    row = outcome[1:]
    state["_key"], stored = key, stored_texts(schema, state)
    state["_stored"] = stored
    corrupt = dict(state.pop("_corrupt", {}))
    for name, raw in zip(wanted, row[:-1], strict=True):
        stored[name] = raw
        corrupt.pop(name, None)
        if state.get(name) is not before[name]:
            continue  # assigned since this was asked
        state[name] = None
        if raw is not None:
            try:
                state[name] = schema.fields[name].codec.decode(raw)
            except Exception:  # as a load does: the other fields stay readable, reading this one raises CorruptRecord
                del state[name]
                corrupt[name] = raw
    if corrupt:
        state["_corrupt"] = corrupt
    if not names:
        state.pop("_stub", None)
    if schema.options.versioned and not names and row[-1] is not None:
        state["_version"] = row[-1].decode()
