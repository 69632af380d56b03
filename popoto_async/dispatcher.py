"""Awaits become batches: admission, and the choice of a lane, for one (process, event loop, database).

Operations are admitted before they are planned, so a `gather` of thousands neither fills memory nor holds the loop:
each turn admits a bounded cost, in the order of asking. A model's operations stay on one lane while any of them is
pending; only then may big values take the second lane, where they hold up nobody else. So program order holds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Protocol

from popoto_async.calls import Ticket
from popoto_async.errors import Overloaded, PopotoError, Unavailable
from popoto_async.lane import Lane
from popoto_async.tracing import Stats
from popoto_async.wire import Clock, Wire

BIG = 64 << 10
"""Bytes of values from which an operation takes the second lane."""

TURN_COST = 5000
"""Estimated cost of the operations admitted in one turn of the loop."""

BUSY_TURN_COST = 800
"""The same while a call is under way: short turns then, so that its reply is taken up soon and the server has work."""

QUEUE = 10_000
"""Operations that may wait in the lanes; further callers wait before they plan anything."""


class Starter(Protocol):
    """Who wants to send something, when there is room for it.

    `cost` estimates what it takes this process, in microseconds; `since` is when it began to wait, where that matters.
    """

    cost: int
    since: float

    def done(self) -> bool:
        """Whether it wants that no more."""

    def launch(self) -> None:
        """Plan and queue it now."""

    def fail(self, error: BaseException) -> None:
        """It can't be sent."""


class Dispatcher:
    """Sends operations in batches."""

    def __init__(
        self,
        connect: Callable[[Clock], Awaitable[Wire]],
        *,
        namespace: str | None = None,
        batching: bool = True,
        queue_timeout: float | None = None,
        limit: int = QUEUE,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._batching = batching
        self._queue_timeout = queue_timeout
        self._limit = limit
        self._waiting: deque[Starter] = deque()
        self._turn = 0
        self._ticking = False
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self.context = Context()
        """What is common to all operations runs in it; each is planned and concluded in its caller's."""
        self.stats = Stats()
        self.clock = Clock(self._loop.time)
        self.lanes = tuple(Lane(connect, namespace, self.stats, self.clock, self._make_tick) for _ in range(2))

    # Admission ---------------------------------------------------------------------------------------------------

    def start(self, starter: Starter) -> None:
        """Launch it in this turn of the loop, or later when there is room; Overloaded after `queue_timeout`."""
        if not self._waiting and self._admits():
            self._turn += starter.cost
            starter.launch()
            return
        self._waiting.append(starter)
        self._make_tick()
        if self._queue_timeout is not None:
            starter.since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._queue_timeout, self._give_up, self._queue_timeout)

    def _admits(self) -> bool:
        small, big = self.lanes
        if not self.clock.known:
            self._open()
            return False
        most = BUSY_TURN_COST if small.call or big.call else TURN_COST
        return self._turn < most and not self._full

    @property
    def _full(self) -> bool:
        small, big = self.lanes
        return len(small.backlog.tickets) + len(big.backlog.tickets) >= self._limit

    def _give_up(self, patience: float) -> None:
        """Fail those who have waited long enough, while the queue is full; they stand first."""
        self._timer = None
        now = self._loop.time()
        while self._waiting and self._full:
            starter = self._waiting[0]
            if not starter.done():
                if now < starter.since + patience:
                    self._timer = self._loop.call_at(starter.since + patience, self._give_up, patience)
                    return
                starter.fail(
                    Overloaded(
                        f"no place in the queue of {self._limit} operations within {patience:g} s",
                        hint="start fewer operations at once, or raise queue_timeout",
                    )
                )
            self._waiting.popleft()

    def _make_tick(self) -> None:
        if not self._ticking and self._waiting:
            self._ticking = True
            self._loop.call_soon(self._tick, context=self.context)

    def _tick(self) -> None:
        self._ticking = False
        self._turn = 0
        while self._waiting and self._admits():
            starter = self._waiting.popleft()
            if not starter.done():
                self._turn += starter.cost
                starter.launch()
        if self._turn:
            self._make_tick()
        if self._timer is None and self._queue_timeout is not None:
            self._give_up(self._queue_timeout)  # the queue was not full when that was looked at last, and may be now

    def _open(self) -> None:
        """Connect before the first operation is planned: plans read the server's clock."""
        if self._opening is None:
            self._opening = asyncio.Task(self._opened(), loop=self._loop, context=Context())

    async def _opened(self) -> None:
        try:
            await self.lanes[0].ready()
        except BaseException as error:
            reason = error if isinstance(error, PopotoError) else Unavailable("the connection was given up")
            while self._waiting:
                self._waiting.popleft().fail(type(reason)(*reason.args, hint=reason.hint))
            if not isinstance(error, PopotoError):
                raise
        finally:
            self._opening = None
            self._make_tick()

    # Sending -----------------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Queue an operation. Unwanted before it leaves, it is never sent."""
        if not self._batching:
            ticket.alone = True
        small, big = self.lanes
        large = ticket.operation.size > BIG
        if not big.backlog.pending and not large:
            small.submit(ticket)
            return
        for lane in self.lanes:
            if lane.backlog.returned is not None:  # it was there already, before whatever waits
                lane.submit(ticket)
                return
        # Order first: behind whatever of its models is pending, be it on both lanes.
        models = ticket.models
        busy = [lane for lane in self.lanes if not lane.backlog.pending.keys().isdisjoint(models)]
        if len(busy) == 2:
            ticket.behind = busy[1].backlog
        (busy[0] if busy else self.lanes[large]).submit(ticket)

    def snapshot(self) -> Stats:
        """The counters as they stand."""
        self.stats.queued = len(self._waiting) + sum(len(lane.backlog.tickets) for lane in self.lanes)
        self.stats.connections = sum(lane.wire is not None for lane in self.lanes)
        return self.stats

    async def close(self) -> None:
        """Fail what waits, let what is under way finish, close the connections."""
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._waiting.popleft().fail(Unavailable("the connection was closed before the operation left"))
        await asyncio.gather(*(lane.close() for lane in self.lanes))
        if self._opening is not None:
            await asyncio.wait([self._opening])

    def abandon(self) -> None:
        """Let go of the connections without the event loop, which is closed or the parent process's."""
        for lane in self.lanes:
            lane.abandon()
