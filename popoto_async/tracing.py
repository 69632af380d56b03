"""What was sent: counters of a database, and traces that show which awaits shared which round trip."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import NamedTuple

import msgspec


class Stats(msgspec.Struct):
    """Counters since a database was opened in this event loop."""

    operations: int = 0
    round_trips: int = 0
    joined: int = 0
    """Reads that were answered by an identical one in the same call."""
    resent: int = 0
    """Calls sent again because their reply was lost."""
    reconnects: int = 0
    connections: int = 0
    """Sockets open now."""
    queued: int = 0
    """Operations waiting now."""

    @property
    def mean_batch(self) -> float:
        """Operations per round trip."""
        return self.operations / self.round_trips if self.round_trips else 0.0


class Traced(NamedTuple):
    """One operation in a trace: its name, its model, and the round trip it travelled in."""

    round_trip: int
    operation: str
    model: str


class Trace(msgspec.Struct):
    """The operations started within a `trace()` block, in the order of their answers."""

    operations: list[Traced] = msgspec.field(default_factory=list)
    limit: int = 100_000
    """Operations kept; later ones are only counted."""
    dropped: int = 0

    def record(self, round_trip: int, operation: str, model: str) -> None:
        """Note an answered operation."""
        if len(self.operations) < self.limit:
            self.operations.append(Traced(round_trip, operation, model))
        else:
            self.dropped += 1

    @property
    def round_trips(self) -> int:
        """Different calls that carried the operations."""
        return len({traced.round_trip for traced in self.operations})

    @property
    def calls(self) -> list[list[Traced]]:
        """The operations by round trip."""
        found: dict[int, list[Traced]] = {}
        for traced in self.operations:
            found.setdefault(traced.round_trip, []).append(traced)
        return list(found.values())

    def __str__(self) -> str:
        lines = [f"{len(self.operations) + self.dropped} operations in {self.round_trips} round trips"]
        for call in self.calls:
            kinds: dict[str, int] = {}
            for traced in call:
                name = f"{traced.model}.{traced.operation}"
                kinds[name] = kinds.get(name, 0) + 1
            lines.append("  " + ", ".join(f"{count} × {name}" for name, count in kinds.items()))
        return "\n".join(lines)


current_traces: ContextVar[tuple[Trace, ...]] = ContextVar("popoto_async_traces", default=())
batching_off: ContextVar[bool] = ContextVar("popoto_async_unbatched", default=False)


@asynccontextmanager
async def trace() -> AsyncIterator[Trace]:
    """Records the operations that this task, and tasks it starts, send within the block, those of inner traces too."""
    found = Trace()
    token = current_traces.set((*current_traces.get(), found))
    try:
        yield found
    finally:
        current_traces.reset(token)


@asynccontextmanager
async def unbatched() -> AsyncIterator[None]:
    """Within the block, each operation of this task, and of tasks it starts, travels in a round trip of its own."""
    token = batching_off.set(True)
    try:
        yield
    finally:
        batching_off.reset(token)
