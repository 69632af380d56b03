"""Figures: medians with their spread, what the server counted, how long the event loop stood still."""

import asyncio
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

BEAT = 0.001  # seconds between two heartbeats; a stall shorter than this is not seen


@dataclass(frozen=True, slots=True)
class Summary:
    """A median, the quartiles around it, and the largest value of all rounds."""

    median: float
    lower: float
    upper: float
    largest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Summary":
        ordered = sorted(values)
        if len(ordered) == 1:
            return cls(ordered[0], ordered[0], ordered[0], ordered[0])
        lower, median, upper = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(median, lower, upper, ordered[-1])


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """What the server had counted at one moment; `a - b` is what happened in between."""

    reads: float
    commands: float
    cpu: float
    sent: float

    @classmethod
    def read(cls, info: Callable[[], Mapping[str, Any]]) -> "ServerCounters":
        """Reads one INFO all. Commands called by scripts and inside MULTI count one by one."""
        found = info()
        return cls(
            reads=float(found["total_reads_processed"]),
            commands=float(sum(stat["calls"] for name, stat in found.items() if name.startswith("cmdstat_"))),
            cpu=float(found["used_cpu_sys"]) + float(found["used_cpu_user"]),
            sent=float(found["total_net_output_bytes"]),
        )

    def __sub__(self, other: "ServerCounters") -> "ServerCounters":
        return ServerCounters(
            self.reads - other.reads,
            self.commands - other.commands,
            self.cpu - other.cpu,
            self.sent - other.sent,
        )


def cost_of_reading(info: Callable[[], Mapping[str, Any]]) -> ServerCounters:
    """What reading the counters adds to them: to be taken off every difference."""
    samples = [ServerCounters.read(info) for _ in range(12)]
    differences = [later - earlier for earlier, later in pairwise(samples)]
    return ServerCounters(
        statistics.median(d.reads for d in differences),
        statistics.median(d.commands for d in differences),
        statistics.median(d.cpu for d in differences),
        statistics.median(d.sent for d in differences),
    )


class Heartbeat:
    """`with Heartbeat() as beat:` inside a coroutine; afterwards `beat.stall` is the longest delay of a beat, in s."""

    def __init__(self) -> None:
        self.stall = 0.0
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Heartbeat":
        self._schedule(self._loop.time())
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.stall = max(self.stall, self._loop.time() - self._due)

    def _schedule(self, now: float) -> None:
        self._due = now + BEAT
        self._timer = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        self.stall = max(self.stall, now - self._due)
        self._schedule(now)
