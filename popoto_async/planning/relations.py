"""Relations → what scripts have to know of them: what a stub stands for, and who refers to a record. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from popoto_async.errors import InvalidLookup, nearest
from popoto_async.fields.relationship import Relationship, relation, relations
from popoto_async.plan import Operation
from popoto_async.planning.write import LOAD_COST
from popoto_async.schema import Binding, Schema

FETCHED = 200
"""Records that one operation fetches."""


def plan_fetch(binding: Binding, keys: Sequence[str]) -> Operation:
    """Read the records that stubs stand for, also those whose key has changed since."""
    body = {"keys": keys, "alias": binding.keys.aliases}
    return Operation("fetch", binding.layout, body, (), False, LOAD_COST * len(keys) + 1, 0, ("fetch", *keys))


def steps(schema: Schema, path: str) -> list[Relationship[Any]]:
    """The relations of a path `restaurant__owner`. InvalidLookup names what is none."""
    found = []
    for name in path.split("__"):
        step = relation(schema.fields, name)
        if step is None:
            known = [each.name for each in relations(schema.fields)]
            raise InvalidLookup(
                f"{schema.model} has no relation {name!r}", model=schema.model, field=name, hint=nearest(name, known)
            )
        found.append(step)
        schema = step.target._meta
    return found
