"""Relations → what scripts have to know of them: what a stub stands for, and who refers to a record. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from popoto_async.errors import InvalidLookup, nearest
from popoto_async.fields.base import Field
from popoto_async.fields.relationship import CASCADE, DO_NOTHING, PROTECT, Relationship, relation, relations
from popoto_async.keys import NULL, escape
from popoto_async.plan import Operation
from popoto_async.planning.write import ENTRY_COST, LOAD_COST, SAVE_COST, plan_delete
from popoto_async.schema import Binding, Referrer, Schema

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


# Who refers to a record ----------------------------------------------------------------------------------------------


class Graph:
    """The models whose records refer to one of a model, and, as far as they would go with it, to those, and so on.

    `wire` is what scripts read (`lib/referrers.lua`), `classes` the class keys of these models.
    """

    def __init__(self, binding: Binding, *, deep: bool) -> None:
        self.classes: dict[str, None] = {}
        self.wire: list[dict[str, Any]] = []
        self._binding, self._deep = binding, deep
        self._numbers: dict[Schema, int] = {}
        self._node(binding.schema, follow=True)

    def _node(self, schema: Schema, *, follow: bool) -> int:
        """The number of a model's node, from 1; with who refers to its records where these may go."""
        number = self._numbers.get(schema)
        if number is None:
            binding = self._binding.other(schema)
            self.classes[binding.keys.klass] = None
            self.wire.append(
                {"m": msgspec.Raw(binding.layout.wire), "name": schema.model, "alias": binding.keys.aliases, "refs": []}
            )
            number = self._numbers[schema] = len(self.wire)
        node = self.wire[number - 1]
        if follow and "followed" not in node:
            node["followed"] = True
            acting = [each for each in schema.referrers if not self._deep or each.field.on_delete is not DO_NOTHING]
            acting.sort(key=lambda each: each.field.on_delete is not PROTECT)  # what forbids it is asked first
            node["refs"] = [self._ref(each) for each in acting]
        return number

    def _ref(self, referrer: Referrer) -> dict[str, Any]:
        schema, field = referrer.schema, referrer.field
        return {
            "n": self._node(schema, follow=self._deep and field.on_delete is CASCADE),
            "rel": self._binding.other(schema).prefixes[field.index],
            "f": field.name,
            "act": str(field.on_delete),
            "parts": list(_parts(self._binding.other(schema), field)),
        }


def _parts(binding: Binding, field: Relationship[Any]) -> Iterable[tuple[str, int, int]]:
    """Where the key referred to stands in entries: line of the slot table, part of the tail, whether null has none."""
    schema = binding.schema
    for index in schema.indexes:
        if field.name in index.inputs:
            line = index.kind + binding.prefixes[index.name]
            owner = schema.owners[index.name]
            if owner is field:
                yield line, 0, 0
            elif isinstance(owner, Field):
                yield line, owner.partition.index(field.name) + 1, 0
            else:
                yield line, owner.names.index(field.name) + 1, 1


def with_references(binding: Binding, save: Operation) -> Operation:
    """The save that moves a record which others refer to: references follow."""
    graph = Graph(binding, deep=False)
    body = {**save.body, "graph": graph.wire, "part": escape(save.key or "")}
    return replace(save, name="save_referred", body=body, cost=save.cost + 60, also=tuple(graph.classes))


def plan_rewrite(binding: Binding, key: str) -> Operation:
    """Go on telling records the new key of the one that they refer to, which was `key`."""
    also = Graph(binding, deep=False).classes
    body = {"key": key, "alias": binding.keys.aliases}
    return Operation("rewrite", binding.layout, body, (), True, 5000, also=tuple(also))


def plan_erase(binding: Binding, key: str, cursor: bytes | None) -> Operation:
    """Remove a record, and do to those that refer to it what their relations say."""
    graph = Graph(binding, deep=True)
    if not graph.wire[0]["refs"]:
        return plan_delete(binding, key)
    body: dict[str, Any] = {"key": key, "graph": graph.wire, "null": NULL}
    if cursor is not None:
        body["cursor"] = msgspec.Raw(cursor)
    cost = SAVE_COST + ENTRY_COST * len(binding.slots) + (5000 if cursor else 40)
    return Operation("erase", binding.layout, body, (), True, cost, also=tuple(graph.classes))
