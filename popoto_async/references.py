"""What stubs stand for, loaded: one, or all that many records refer to. One round trip for each level of relations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from popoto_async.declaration import require_field
from popoto_async.errors import ModelException, RecordGone, ValidationError
from popoto_async.fields.base import Field
from popoto_async.fields.relationship import relation
from popoto_async.outcomes import failure
from popoto_async.planning.relations import FETCHED, plan_fetch
from popoto_async.planning.write import LOAD_COST
from popoto_async.records import ask, fill, stored_texts
from popoto_async.schema import Schema

Tree = dict[str, "Tree"]
"""Relations to follow, each with those to follow from there."""


async def fetch(cls: Any, keys: Sequence[str], timeout: float | None) -> dict[str, Any]:
    """The records under these keys, by key; without those that don't exist."""
    schema: Schema = cls._meta

    async def part(some: Sequence[str]) -> list[tuple[str, Any]]:
        status, outcome, binding = await ask(
            "fetch", schema, lambda bound: plan_fetch(bound, some), cost=LOAD_COST * len(some), timeout=timeout
        )
        if status != b"ok":
            raise failure(schema, some[0], {}, outcome, binding)
        found = []
        for key, stored, row in zip(some, outcome[1], outcome[2], strict=True):
            if isinstance(row, bytes):
                raise failure(schema, key, {}, [b"foreign", stored, row], binding)
            if row:
                found.append((key, fill(cls, stored.decode(), row)))
        return found

    parts = (part(keys[first : first + FETCHED]) for first in range(0, len(keys), FETCHED))
    return {key: instance for some in await asyncio.gather(*parts) for key, instance in some}


async def complete(instance: Any, timeout: float | None = None) -> Any:
    """The instance itself; a stub is filled first with what is stored, but for what was assigned to it meanwhile."""
    state, cls = instance.__dict__, type(instance)
    if "_stub" not in state:
        return instance
    key = state["_key"]
    found = (await fetch(cls, [key], timeout)).get(key)
    if found is None:
        raise RecordGone(
            f"{cls.__name__}: {key!r} does not exist",
            model=cls.__name__,
            key=key,
            hint="it was deleted, has expired, or was never saved; await m.fetch(name) gives None in its place",
        )
    if "_stub" in state:
        schema: Schema = cls._meta
        known = stored_texts(schema, state)
        kept = {
            name: state[name]
            for name, field in schema.fields.items()
            if name in state and (name not in known or known[name] != _text(field, state[name]))
        }
        state.clear()
        state.update(found.__dict__)
        state.update(kept)
    return instance


def _text(field: Field[Any], value: Any) -> bytes | None:
    return None if value is None else field.checked(value)


async def follow(instance: Any, name: Any, timeout: float | None) -> Any:
    """The record that a relation of this one leads to, loaded; None where it is null, or the record is gone."""
    schema: Schema = instance._meta
    require_field(schema, name)
    if relation(schema.fields, name) is None:
        raise ModelException(f"{schema.model}.{name} is no relation", model=schema.model, field=name)
    value = getattr(instance, name)
    if value is None:
        return None
    if wrong := schema.fields[name].problems(value):
        raise ValidationError(
            f"{schema.model}.{name}: {wrong[0]}", errors={name: wrong}, model=schema.model, field=name, value=value
        )
    try:
        return await complete(value, timeout)
    except RecordGone:
        return None


def tree(paths: Iterable[str]) -> Tree:
    """Paths `restaurant__owner` as a tree; each begins with all that leads to it."""
    root: Tree = {}
    for path in paths:
        level = root
        for name in path.split("__"):
            level = level.setdefault(name, {})
    return root


async def prefetch(rows: list[Any], wanted: Tree, timeout: float | None) -> None:
    """Load what the relations of these instances lead to: level by level, each record once.

    A record that is gone leaves a stub. Of one level, all that refer to a record share one instance of it.
    """
    level = [(rows, wanted)] if rows else []
    while level:
        asked: dict[Any, dict[str, list[tuple[dict[str, Any], str]]]] = {}
        for owners, names in level:
            for name in names:
                target = owners[0]._meta.fields[name].target
                for owner in owners:
                    value = owner.__dict__.get(name)
                    if value is not None and "_stub" in value.__dict__:
                        asked.setdefault(target, {}).setdefault(value.__dict__["_key"], []).append(
                            (owner.__dict__, name)
                        )
        answers = await asyncio.gather(*(fetch(target, list(keys), timeout) for target, keys in asked.items()))
        for keys, found in zip(asked.values(), answers, strict=True):
            for key, instance in found.items():
                for state, name in keys[key]:
                    state[name] = instance
        level = list(_next_level(level))


def _next_level(level: list[tuple[list[Any], Tree]]) -> Iterable[tuple[list[Any], Tree]]:
    for owners, names in level:
        for name, deeper in names.items():
            values = {id(value): value for owner in owners if (value := owner.__dict__.get(name)) is not None}
            loaded = [value for value in values.values() if "_stub" not in value.__dict__]
            if deeper and loaded:
                yield loaded, deeper
