"""Operations on a model's stream and its consumer groups. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from popoto_async.plan import Operation
from popoto_async.schema import Binding

TAKE_COST = 100
"""Server time in microseconds of looking for entries: those of a hundred that are pending, and then new ones."""

ENTRY_COST = 10


def plan_group(binding: Binding, verb: str, body: dict[str, Any], ids: Collection[str] | None = None) -> Operation:
    """What a consumer of a group asks (`ids` None), or what it tells of entries that it was given."""
    cost = TAKE_COST + ENTRY_COST * int(body["count"]) if ids is None else ENTRY_COST * (1 + len(ids))
    body = {**body, "verb": verb, **_keys(binding), "ids": list(ids or ())}
    return Operation("group", binding.layout, body, (), True, cost)


def plan_publish(binding: Binding, channel: str, message: bytes) -> Operation:
    """A message to a channel."""
    size = len(message)
    return Operation("publish", binding.layout, {"channel": channel}, (message,), True, 5 + size // 500, size)


def _keys(binding: Binding) -> dict[str, Any]:
    events = binding.schema.options.events
    assert events is not None, "the class has a stream"
    return {"stream": binding.keys.stream, "dead": binding.keys.dead_letters, "limit": events.limit}
