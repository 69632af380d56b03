"""Outcomes that are errors: what the scripts answered, as an error that says what to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from popoto_async.errors import (
    REMEDIES,
    AlreadyExists,
    CorruptIndex,
    CorruptRecord,
    DatabaseError,
    IndexNotBuilt,
    ModelException,
    PopotoError,
    ProtectedRecord,
    RecordGone,
    StaleRecord,
    UniqueViolation,
    ValidationError,
    shorten,
)
from popoto_async.fields.composite import CompositeIndex
from popoto_async.plan import Outcome
from popoto_async.schema import Binding, Schema


class Told(NamedTuple):
    """An outcome, and what it is about: the record's class, key and values, and the slots it was planned under."""

    schema: Schema
    key: str
    state: Mapping[str, Any]
    outcome: Outcome
    binding: Binding


Teller = Callable[[Told], PopotoError]


def _says(kind: type[PopotoError], message: str, hint: str) -> Teller:
    """The error of an outcome that tells no more than its status, or a number: `{key}` and `{count}` in the message."""

    def tell(told: Told) -> PopotoError:
        model, count = told.schema.model, told.outcome[-1]
        text = message.format(key=repr(told.key), count=count)
        return kind(f"{model}: {text}", model=model, key=told.key, hint=hint)

    return tell


def _text(raw: Any) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else repr(raw)


def _unique(told: Told) -> PopotoError:
    _, slot, value, owner = told.outcome[:4]
    model, owner = told.schema.model, owner.decode()
    index = told.schema.owners.get(told.binding.slot_names.get(slot, ""))
    if index is None:
        return UniqueViolation(f"{model}: {shorten(value)} is already taken", model=model, owner=owner)
    if isinstance(index, CompositeIndex):
        return index.violation(told.state, owner, told.key)
    return index.violation(told.state.get(index.name), owner, told.key)


def _foreign(told: Told) -> PopotoError:
    where, kind = told.outcome[1].decode(), told.outcome[2].decode()
    return CorruptRecord(
        f"{told.schema.model}: the key {where!r} holds a {kind}, not a record",
        model=told.schema.model,
        key=where,
        hint="something else uses this key; rename or delete it, or set Meta.name or a namespace",
    )


def _corrupt(told: Told) -> PopotoError:
    reason, key = _text(told.outcome[1]), told.outcome[2]
    where = repr(_text(key)) if key else "an index key"
    return CorruptIndex(
        f"{told.schema.model}: {where} holds something foreign; nothing was done: {reason}",
        model=told.schema.model,
        key=told.key or None,
        hint="find out what uses that key, then delete or rename it",
    )


def _declined(told: Told) -> PopotoError:
    raw, name = told.outcome[1], _text(told.outcome[2])
    with suppress(Exception):
        value = told.schema.fields[name].codec.decode(raw)
        return ValidationError(
            f"{told.schema.model}.{name}: {told.key!r} holds {shorten(value)}: the sum is too far off to be exact",
            model=told.schema.model,
            field=name,
            key=told.key,
            value=value,
            hint="assign the sum and save() it instead, if the field can hold it",
        )
    return CorruptRecord(
        f"{told.schema.model}.{name}: {told.key!r} holds {shorten(raw)}, to which nothing can be added exactly",
        model=told.schema.model,
        field=name,
        key=told.key,
        value=raw,
        hint="assign the value and save() it instead",
    )


def _protected(told: Told) -> PopotoError:
    protected, model, field = (_text(item) for item in told.outcome[1:4])
    names = [_text(one) for one in told.outcome[4]]
    shown = ", ".join(map(repr, names[:3])) + (" and others" if len(names) > 3 else "")
    return ProtectedRecord(
        f"{protected!r} can't be deleted: {shown} refer to it ({model}.{field}, PROTECT)",
        referrers=names,
        model=told.schema.model,
        field=field,
        key=told.key,
        hint="delete those, or have them refer to something else; error.referrers names some",
    )


def _clash(told: Told) -> PopotoError:
    model, referrer, owner = (_text(item) for item in told.outcome[1:4])
    return UniqueViolation(
        f"{told.schema.model}: {referrer!r} ({model}) would refer to {told.key!r}, and {owner!r} already has what must"
        " be unique",
        model=told.schema.model,
        key=told.key,
        owner=owner,
        hint="choose a key that nothing refers to, or change one of the two",
    )


def _unbuilt(told: Told) -> PopotoError:
    name = _text(told.outcome[1]).partition("=")[0]
    return IndexNotBuilt(
        f"{told.schema.model}: the index {name} does not hold every record: it was declared after some were stored, or"
        " a program wrote that does not keep it up",
        model=told.schema.model,
        field=name.partition(":")[2],
        hint="when all programs that write declare it alike, run: popoto-async rebuild MODULE",
    )


def _error(told: Told) -> PopotoError:
    message = _text(told.outcome[1])
    model, hint = told.schema.model, REMEDIES.get(message.partition(" ")[0])
    return DatabaseError(f"{model}: {told.key!r}: the server answered: {message}", model=model, key=told.key, hint=hint)


FAILURES: dict[bytes, Teller] = {
    b"exists": _says(AlreadyExists, "{key} already exists", 'load and change it, or save with if_exists="overwrite"'),
    b"gone": _says(
        RecordGone,
        "{key} does not exist any more",
        'it was deleted or has expired; save(if_gone="create") stores it again',
    ),
    b"stale": _says(
        StaleRecord,
        "{key} was saved by somebody else since it was read",
        "await m.refresh(), apply the change again, save",
    ),
    b"large": _says(
        ModelException,
        "more than {count} records go with {key} or refer to it: too many for a transaction",
        "delete it outside of the transaction, where that is done in parts",
    ),
    b"busy": _says(
        ModelException,
        "what referred to an earlier record {key} is still being told its new key",
        "save it outside of the transaction, which waits for that",
    ),
    b"unique": _unique,
    b"foreign": _foreign,
    b"corrupt": _corrupt,
    b"declined": _declined,
    b"protected": _protected,
    b"clash": _clash,
    b"unbuilt": _unbuilt,
    b"error": _error,
}
"""Status of an outcome → the error it becomes."""


def failure(schema: Schema, key: str, state: Mapping[str, Any], outcome: Outcome, binding: Binding) -> PopotoError:
    """The error that an outcome stands for."""
    return FAILURES[outcome[0]](Told(schema, key, state, outcome, binding))
