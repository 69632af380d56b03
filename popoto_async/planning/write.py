"""Schema + values → operation: saves, deletes, loads, increments. Pure: the shell fills in nothing but the clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import reduce
from operator import iconcat
from typing import Any, NamedTuple

import msgspec

from popoto_async.keys import COMPUTED
from popoto_async.plan import Operation
from popoto_async.planning.lists import BYTES_PER_COST, NO_LISTS, split
from popoto_async.schema import Binding, Schema
from popoto_async.types import Row

LOAD_COST = 4
SAVE_COST = 20
ENTRY_COST = 7
"""Server time in microseconds, measured on one core of a small cloud machine (`python -m benchmarks`)."""

COMPUTED_IF_INEXACT = "\x02"
"""The score of an entry that a computed value occupies only if it shares its score (`save.lua`)."""

Triple = tuple[int, str, str]
_pack = msgspec.msgpack.Encoder().encode


def entries(binding: Binding, values: Row, touched: Collection[str] | None = None) -> list[Triple]:
    """The entries that values imply, by slot and tail; those of the touched indexes only, where these are given."""
    slots, schema = binding.slots, binding.schema
    found = [
        (slots[entry.name], entry.tail, entry.score)
        for name, implied in schema.entries
        for entry in implied(values.get(name), values)
        if touched is None or entry.name in touched
    ]
    for composite in schema.composites:
        if touched is None or composite.index.name in touched:
            found.extend((slots[entry.name], entry.tail, entry.score) for entry in composite.entries(values))
    if len(found) > 1:
        found.sort()
    return found


def pack_entries(triples: list[Triple]) -> bytes:
    """Entries as a manifest stores them."""
    flat: list[int | str] = []
    return _pack(reduce(iconcat, triples, flat))


def _sets(schema: Schema, row: list[Any]) -> list[bytes]:
    """The names and texts of a row in turn, without its nulls."""
    sets = schema.spaced.copy()
    if None in row:
        return [item for name, text in zip(sets[::2], row, strict=True) if text is not None for item in (name, text)]
    sets[1::2] = row
    return sets


def _cost(triples: list[Triple], size: int) -> int:
    return SAVE_COST + ENTRY_COST * len(triples) + size // BYTES_PER_COST


def plan_insert(
    binding: Binding,
    key: str,
    values: Row,
    row: list[Any],
    *,
    if_exists: str,
    timing: Mapping[str, Any],
    found: str | None = None,
) -> Operation:
    """Store a whole record, of which `row` holds the texts: every field and every entry.

    `found` names the index whose owner is an answer too.
    """
    schema, triples, lists = binding.schema, entries(binding, values), NO_LISTS
    if schema.beside:
        rest, lists = split(binding, dict(zip(schema.fields, row, strict=True)), {})
        row = [rest.get(name) for name in schema.fields]
    arguments = _sets(schema, row)
    body = {"sets": len(arguments), **timing, **lists.body}
    if if_exists != "overwrite":
        body["if_exists"] = if_exists
    if found is not None:
        body["found"] = binding.slots[found]
        body["relies"] = [[binding.keys.slots, binding.keys.klass, binding.definitions[found]]]
    size = sum(map(len, arguments)) + lists.size
    values_sent = (*arguments, pack_entries(triples), *lists.items)
    return Operation("save", binding.layout, body, values_sent, True, _cost(triples, size), size, key=key)


class Addition(NamedTuple):
    """A number to add on the server: to which field, how much (its stored text), and whether as doubles are added."""

    field: str
    by: str
    is_float: bool


def _waiting(binding: Binding, values: Row, touched: Collection[str], name: str) -> list[Triple]:
    """The entries of the touched indexes in a row where the server computes the value of `name`."""
    schema = binding.schema
    waiting = {**values, name: COMPUTED}
    owners = {id(owner): owner for index, owner in schema.owners.items() if index in touched}
    found = [
        (binding.slots[entry.name], entry.tail, COMPUTED_IF_INEXACT if entry.inexact else entry.score)
        for owner in owners.values()
        for entry in owner.waiting(waiting, name)
        if entry.name in touched
    ]
    found.sort()
    return found


def plan_update(
    binding: Binding,
    key: str,
    origin: str,
    values: Row,
    changed: Mapping[str, bytes | None],
    stored: Mapping[str, bytes],
    *,
    if_exists: str = "overwrite",
    version: str | None = None,
    timing: Mapping[str, Any],
    add: Addition | None = None,
) -> Operation:
    """Change some fields of a record (None: to null), and move it from the key `origin` where it differs.

    Entries that also depend on fields which are not written are built on `stored`, and hold only while those stay.
    """
    schema = binding.schema
    written = {*changed, add.field} if add else changed.keys()
    touched = {index for name in written for index in schema.touches[name]}
    if origin != key and binding.stored and binding.unbuilt:
        # A rebuild goes through the keys and may miss a record that moves: so that takes its place in all indexes.
        touched = {index.name for index in schema.indexes}
    expected = sorted({name for index in schema.indexes if index.name in touched for name in index.inputs} - written)
    if not touched:
        triples = []
    else:
        triples = _waiting(binding, values, touched, add.field) if add else entries(binding, values, touched)
    lists = NO_LISTS
    if schema.beside:
        changed, lists = split(binding, changed, stored)
    arguments = [item for name, raw in changed.items() if raw is not None for item in (name.encode(), raw)]
    drops = [*(name.encode() for name, raw in changed.items() if raw is None), *lists.drops]
    body = {
        "sets": len(arguments),
        "touched": sorted(binding.slots[name] for name in touched),
        **timing,
        **lists.body,
    }
    if drops:
        body["drops"] = len(drops)
    if if_exists != "overwrite":
        body["if_exists"] = if_exists
    if origin != key:
        body["from"] = origin
    if version is not None:
        body["version"] = version
    if add:
        body["add"] = {"field": add.field, "by": add.by, "float": add.is_float}
    if expected:
        body.update(expect=expected, present=[int(stored.get(name) is not None) for name in expected])
    expectations = (stored.get(name) or b"" for name in expected)
    size = sum(map(len, arguments)) + lists.size
    values_sent = (*arguments, *drops, pack_entries(triples), *expectations, *lists.items)
    return Operation("save", binding.layout, body, values_sent, True, _cost(triples, size), size, key=key)


def plan_delete(binding: Binding, key: str) -> Operation:
    """Remove a record with all that is its own."""
    return Operation("delete", binding.layout, {}, (), True, SAVE_COST + ENTRY_COST * len(binding.slots), key=key)


def plan_load(binding: Binding, key: str, fields: Collection[str] | None = None) -> Operation:
    """Read a record by its key; some fields of it, where these are given."""
    if fields is None:
        return Operation("load", binding.layout, {}, (), False, LOAD_COST, 0, key, key=key)
    return Operation("load", binding.layout, {"fields": list(fields)}, (), False, LOAD_COST, key=key)


def plan_expire(binding: Binding, key: str, timing: Mapping[str, Any]) -> Operation:
    """Give a record a deadline, or take it away."""
    return Operation("expire", binding.layout, timing, (), True, SAVE_COST, key=key)


def plan_transaction(steps: list[Operation]) -> Operation:
    """Several operations, all or none."""
    first = steps[0].layout
    return Operation(
        "transaction",
        first,
        {},
        (),
        True,
        sum(2 * step.cost for step in steps),
        sum(step.size for step in steps),
        None,
        tuple(steps),
    )
