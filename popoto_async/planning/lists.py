"""Lists beside a record: their part of a save, and the push."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from popoto_async.plan import Operation
from popoto_async.schema import Binding

PUSH_COST = 6
"""Server time in microseconds."""

BYTES_PER_COST = 500
"""Bytes of an item that cost the server one more microsecond."""


class Lists(NamedTuple):
    """What a save replaces beside the record: its part of the operation, the items of all lists, and their bytes.

    `drops` are fields that the record itself still has, from before they had a list of their own.
    """

    body: Mapping[str, Any]
    items: tuple[bytes, ...]
    size: int
    drops: tuple[bytes, ...]


NO_LISTS = Lists({}, (), 0, ())


def split(binding: Binding, encoded: Mapping[str, Any], stored: Mapping[str, Any]) -> tuple[Mapping[str, Any], Lists]:
    """Values without those that stand beside the record; and these. Text in place of a list is none, and stays."""
    beside = binding.schema.beside
    lists = {name: encoded[name] for name in beside if isinstance(encoded.get(name), list)}
    rest = {name: raw for name, raw in encoded.items() if name not in beside}
    if not lists:
        return rest, NO_LISTS
    items = tuple(item for texts in lists.values() for item in texts)
    shape = [(binding.slots[beside[name]], len(texts)) for name, texts in lists.items()]
    drops = tuple(name.encode() for name in lists if isinstance(stored.get(name), bytes))
    return rest, Lists({"lists": shape}, items, sum(map(len, items)), drops)


def plan_push(binding: Binding, key: str, name: str, item: bytes, cap: int) -> Operation:
    """Put an item before those of a list beside a record."""
    body = {"field": name, "slot": binding.slots[binding.schema.beside[name]], "cap": cap}
    cost = PUSH_COST + len(item) // BYTES_PER_COST
    return Operation("push", binding.layout, body, (item,), True, cost, len(item), key=key)
