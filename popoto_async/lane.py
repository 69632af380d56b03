"""A queue, a connection, and the task that serves them: operations leave in order, many to a call.

Idle, a lane sends what is queued at the next turn of the loop; busy, it lets operations gather until the call returns,
and sends them in the turn that brings the reply. Nothing a caller does reaches the connection: callers wait on futures,
the lane has a task of its own. Each writing call has a sequence number under which the server remembers its outcomes,
so a call whose reply was lost is sent again and answered, not repeated.

The lane's task can be cancelled at any await (a loop that shuts down cancels every task) and loses nothing by it: what
it works on stands in `_taken`, `call` and `_answered`, and as long as somebody waits for it, it goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import msgspec

from popoto_async.calls import LOOK, Call, Ticket, pack
from popoto_async.errors import REMEDIES, DatabaseError, OutcomeUnknown, PopotoError, Unavailable, shorten
from popoto_async.keys import lane_key
from popoto_async.plan import Outcome
from popoto_async.scripts.loader import Script, load
from popoto_async.tracing import Stats
from popoto_async.wire import PASSING, UNTOUCHED, Clock, Lost, Refused, Wire

CALL_COST = 5000
"""Estimated microseconds of server time in one call."""

CALL_BYTES = 1 << 20
"""Bytes of values in one call; an operation above that travels alone."""

SLICE = 1000
"""Estimated cost of the outcomes handed out in one turn of the loop."""

CALL_TIMEOUT = 30.0
"""Seconds without a reply after which a connection is given up and the call sent again."""

PATIENCE = 10.0
"""Seconds for which a lost server is looked for before its operations fail."""

CLOSE_TIMEOUT = 5.0
"""Seconds for which closing waits for the call under way."""

LEAVE_TIMEOUT = 1.0
"""Seconds for which closing waits for the server to forget the lane."""

LANE_TTL = 3600.0
"""Seconds for which the server remembers a lane's last outcomes (`run.lua`)."""

_EMPTY = f"{0:016}\x90"  # no outcomes, under a number before all others
_encode = msgspec.msgpack.Encoder().encode


class Lane:
    """One queue with one connection and at most one call under way."""

    def __init__(
        self,
        connect: Callable[[Clock], Awaitable[Wire]],
        namespace: str | None,
        stats: Stats,
        clock: Clock,
        on_room: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect = connect
        self._stats = stats
        self._clock = clock
        self._on_room = on_room
        self._key = lane_key(namespace, os.urandom(8).hex())
        self._sequence = 0
        self._remembered: float | None = None
        self._has_written = False
        self._connected_before = False
        self._patient = False
        self._closed = False
        self._opening: asyncio.Task[Wire] | None = None
        self._task: asyncio.Task[None] | None = None
        self._taken: list[Ticket] = []
        self._asked: Wire | None = None
        self._left = self._had_left = False
        self._sent = 0.0
        self._answered: deque[tuple[Ticket, Outcome]] = deque()
        self._joins: dict[str, dict[Any, Ticket]] = {}
        self.wire: Wire | None = None
        self.call: Call | None = None
        """What is under way."""
        self.queue: deque[Ticket] = deque()
        self.pending: dict[str, int] = {}
        self.follower: Lane | None = None
        """A lane whose next operation waits until this one has none of its models pending."""

    # The queue ---------------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Queue an operation, or let it join an identical read with no write of its model in between."""
        operation = ticket.operation
        models = ticket.models
        if self._closed:
            ticket.fail(_CLOSED)
            return
        if operation.writes:
            for model in models:
                self._joins.pop(model, None)
        elif operation.join is not None:
            joins = self._joins.setdefault(operation.layout.klass, {})
            earlier = joins.get(operation.join)
            if earlier is not None and not earlier.alone and not ticket.alone:
                earlier.waiters.extend(ticket.waiters)
                earlier.traces += ticket.traces
                self._stats.joined += 1
                return
            joins[operation.join] = ticket
        self.queue.append(ticket)
        for model in models:
            self.pending[model] = self.pending.get(model, 0) + 1
        self.wake()

    def wake(self) -> None:
        """See to it that the queue is served, from the next turn of the loop on."""
        if self._task is None and self.queue:
            # Not in the caller's context: the task outlives it and would keep alive what that refers to.
            self._task = self._loop.create_task(self._serve(), context=Context())

    def _take(self) -> None:
        """Take the tickets of the next call from the queue."""
        taken = self._taken
        cost = size = 0
        while self.queue:
            ticket = self.queue[0]
            if ticket.behind is not None and not ticket.behind.pending.keys().isdisjoint(ticket.models):
                ticket.behind.follower = self
                break
            cost += ticket.operation.cost
            size += ticket.operation.size
            if taken and (cost > CALL_COST or size > CALL_BYTES or ticket.alone or taken[-1].alone):
                break
            taken.append(self.queue.popleft())
        self._joins.clear()
        self._on_room()

    def _done(self, ticket: Ticket) -> None:
        for model in ticket.models:
            self.pending[model] -= 1
            if not self.pending[model]:
                del self.pending[model]
                if self.follower is not None:
                    self.follower.wake()
                    self.follower = None

    def _fail(self, tickets: Iterable[Ticket], error: PopotoError) -> None:
        for ticket in tickets:
            self._done(ticket)
            ticket.fail(error)

    # The task ----------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while True:
                try:
                    if not self._taken:
                        self._take()
                    if self._taken:
                        await self._work()
                    elif self._answered:
                        await self._hand_out()
                    else:
                        return
                except asyncio.CancelledError:
                    await self._drop()  # a reply may be on its way that nobody would take for what it is
                    if self._closed or not self._wanted:
                        self._give_up()
                        raise
                    if task := asyncio.current_task():
                        task.uncancel()
        finally:
            self._task = None

    def _give_up(self) -> None:
        for ticket, outcome in self._answered:
            self._done(ticket)
            ticket.settle(outcome)
        self._answered.clear()
        self._finish(Unavailable("the connection was closed while the operation was under way"))
        self._clear(_CLOSED)

    def _clear(self, error: PopotoError) -> None:
        """Fail everything that is queued."""
        waiting = list(self.queue)
        self.queue.clear()
        self._joins.clear()
        self._fail(waiting, error)

    @property
    def _wanted(self) -> bool:
        return (
            any(ticket.wanted for ticket in self._taken)
            or any(ticket.wanted for ticket, _ in self._answered)
            or any(ticket.wanted for ticket in self.queue)
        )

    def _hand_out_slice(self) -> None:
        """Give outcomes of the call before to those who wait, so many that the loop is not held."""
        cost = 0
        while self._answered and cost <= SLICE:
            ticket, outcome = self._answered.popleft()
            self._done(ticket)
            ticket.settle(outcome)
            cost += ticket.operation.cost

    async def _hand_out(self) -> None:
        """Give all of them."""
        self._hand_out_slice()
        while self._answered:
            await asyncio.sleep(0)
            self._hand_out_slice()

    def _finish(self, error: PopotoError | None = None) -> None:
        """Be ready for the next call; the tickets of this one fail where there was an error."""
        tickets, self._taken, self.call, self._asked, self._left = self._taken, [], None, None, False
        if error is not None:
            self._fail(tickets, error)

    async def _work(self) -> None:
        """Send what was taken until it is answered or patience runs out."""
        lost_at: float | None = None
        delay = 0.0
        while self._taken:
            failure: PopotoError
            try:
                await self._attempt()
                return
            except Lost as error:
                await self._drop()
                failure = Unavailable(f"the connection broke: {error}")
            except Unavailable as error:
                failure = error
            except Refused as error:
                await self._drop_if_demoted(error)
                failure = self._refusal(error)
            except PopotoError as error:
                failure = error
            except Exception as error:  # none that belongs here; the operations must not wait for ever all the same
                await self._drop()
                failure = _unexpected(error, self._left and self.call is not None and self.call.writes)
            if not isinstance(failure, Unavailable):
                self._finish(failure)
                return
            lost_at = lost_at or time.monotonic()
            if self._closed or not self._patient or time.monotonic() - lost_at > PATIENCE:
                # Those in the queue would only wait as long again. And from now on one attempt is enough to give up.
                self._patient = False
                self._finish(failure)
                self._clear(failure)
                return
            await self._hand_out()
            await asyncio.sleep(delay)
            delay = min(2 * delay, 1.0) or 0.02

    async def _attempt(self) -> None:
        """Send the call, unless it is under way, and take up its reply."""
        wire = self.wire
        if wire is None or self._asked is not wire:
            wire = await self._connected()
            if not self._ask(wire):
                return
        try:
            await self._answer(wire)
        except Refused as error:
            if error.code != "NOSCRIPT":
                raise
            await wire.command("SCRIPT", "LOAD", self._script.text)
            self._ask(wire)
            await self._answer(wire)

    async def _connected(self) -> Wire:
        """A connection to a server that can tell whether it did the call."""
        if self.wire is None or not self.wire.alive:
            await self._hand_out()
            await self._drop()
            await self.ready()
        wire = self.wire
        if wire is None:
            raise Lost("dropped")
        if not self._left and self._forgetful:
            await self._hand_out()
            await self._remember(wire)
        return wire

    @property
    def _forgetful(self) -> bool:
        """Whether the server may not have this lane's key, and the call needs it."""
        if self._remembered is not None and time.monotonic() - self._remembered < LANE_TTL / 2:
            return False
        return any(ticket.operation.writes for ticket in self._taken)

    async def _remember(self, wire: Wire) -> None:
        """Have the server know this lane, so that it can tell a call that it forgot from one that it never saw."""
        try:
            await wire.command("SET", self._key, _EMPTY, "NX", "PX", int(LANE_TTL * 1000))
        except Refused as error:
            if error.code != "OOM":  # at its maxmemory it can't remember; deletes must get through all the same
                raise
        self._remembered = time.monotonic()

    def _pack(self) -> Call | None:
        """What was taken as a call, less what nobody waits for any more; None if that is all."""
        wanted: list[Ticket] = []
        for ticket in self._taken:
            if ticket.wanted:
                wanted.append(ticket)
            else:
                self._fail([ticket], _CANCELLED)
        self._taken = wanted
        try:
            call = pack(wanted)
        except Exception:
            call = pack(self._sound())
        if not call.tickets:
            self._taken = []
            return None
        for ticket in call.tickets:
            ticket.left = True
        self._sequence += 1
        self.call = call
        return call

    def _sound(self) -> list[Ticket]:
        """The taken tickets that can be packed. The others fail by themselves."""
        sound: list[Ticket] = []
        for ticket in self._taken:
            try:
                pack([ticket])
                sound.append(ticket)
            except Exception as error:
                self._fail([ticket], _unexpected(error))
        self._taken = sound
        return sound

    @property
    def _script(self) -> Script:
        return load("run.lua" if self.call is None or self.call.writes else "read.lua")

    def _ask(self, wire: Wire) -> bool:
        """Send the call, or what was taken as one. False where nobody waits for any of that."""
        call = self.call or self._pack()
        if call is None:
            return False
        if call.writes:
            call.header.update(lane=self._key, seq=f"{self._sequence:016}", resend=int(self._left))
        command = "EVALSHA" if call.writes or not wire.server.has_read_only_scripts else "EVALSHA_RO"
        self._stats.resent += self._left
        self._asked, self._had_left, self._left = wire, self._left, True
        self._sent = self._loop.time()
        key = call.tickets[0].operation.layout.klass
        wire.write(command, self._script.sha, 1, key, _encode(call.header), *call.values)
        return True

    async def _answer(self, wire: Wire) -> None:
        """The reply to the call. While the server works, what the one before brought is handed out."""
        try:
            await wire.drain()
            await self._hand_out()
            await wire.receive(self._accept)
        except Refused:
            self._asked, self._left = None, self._had_left  # this time it was not done
            raise

    async def _drop_if_demoted(self, error: Refused) -> None:
        if error.code == "READONLY":
            await self._drop()  # after a failover the server's name leads to another one

    def _refusal(self, error: Refused) -> PopotoError:
        """What the server's answer to a whole call means: Unavailable where it passes by itself."""
        if error.code in PASSING or (error.code == "READONLY" and self._has_written):
            return Unavailable(f"the server is not ready: {error.code} {error}")
        refused = f"the server refused the call: {error.code} {error}"
        if error.code in UNTOUCHED or self.call is None or not self.call.writes:
            return DatabaseError(refused, hint=REMEDIES.get(error.code))
        return OutcomeUnknown(refused, hint=LOOK)

    def _accept(self, reply: Any) -> None:
        """Take up the reply to the call; with nothing else to be sent, hand out what it brought."""
        call = self.call
        assert call is not None, "a reply belongs to a call"
        if reply[0] in _VERDICTS:
            self._finish(OutcomeUnknown(_VERDICTS[reply[0]], hint=LOOK))
            return
        if call.writes:
            self._remembered = time.monotonic()
            self._has_written = True
        self._clock.learn(int(reply[0]) / 1e6, self._sent, self._loop.time())
        self._patient = True
        self._stats.round_trips += 1
        self._stats.operations += len(call.tickets)
        for ticket in call.tickets:
            for trace in ticket.traces:
                trace.record(self._stats.round_trips, ticket.operation.name, ticket.operation.layout.model)
        outcomes: Sequence[Outcome] = reply[1]
        self._answered.extend(zip(call.tickets, outcomes, strict=True))
        self._finish()
        if self.queue:
            self._go_on()
        else:
            self._hand_out_slice()

    def _go_on(self) -> None:
        """Send the next call in the turn of the loop that brought a reply, unless there is something to wait for."""
        wire = self.wire
        if wire is not None and wire.alive and not wire.full:
            self._take()
            if self._taken and not self._forgetful:
                self._ask(wire)

    # The connection ----------------------------------------------------------------------------------------------

    async def ready(self) -> Wire:
        """The connection, opened if need be: once, for all who wait for it."""
        while self.wire is None:
            if self._closed:
                raise Unavailable(str(_CLOSED))
            if self._opening is None:
                self._opening = self._loop.create_task(self._open(), context=Context())
                self._opening.add_done_callback(self._opened)
            await asyncio.shield(self._opening)
        return self.wire

    async def _open(self) -> Wire:
        wire = await self._connect(self._clock)
        wire.patience = CALL_TIMEOUT
        self._stats.reconnects += self._connected_before
        self._connected_before = self._patient = True
        self._remembered = None  # it may be another server, or one that lost its memory
        self.wire = wire
        return wire

    def _opened(self, opening: asyncio.Task[Wire]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # those who wait raise it; where nobody does any more, nobody needs to know

    async def _drop(self) -> None:
        wire, self.wire = self.wire, None
        if wire is not None:
            await wire.close()

    async def close(self) -> None:
        """Fail what is queued, let the call under way finish, close the connection."""
        self._closed = True
        self._clear(_CLOSED)
        try:
            if self._task is not None:
                await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT)
            ours = [task for task in (self._task, self._opening) if task is not None]
            for task in ours:
                task.cancel()
            await asyncio.gather(*ours, return_exceptions=True)
            await self._leave()
        finally:
            await self._drop()

    async def _leave(self) -> None:
        """Have the server forget the lane: nobody will ask for its outcomes again. Else they expire."""
        wire = self.wire
        if wire is not None and wire.alive and self._remembered is not None:
            with suppress(Lost, Refused, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await wire.command("UNLINK", self._key)

    def abandon(self) -> None:
        """Let go of the connection without the event loop, which is closed or the parent process's."""
        wire, self.wire, self._closed = self.wire, None, True
        if wire is not None:
            wire.abandon()


_CANCELLED = Unavailable("the operation was cancelled before it left")

_CLOSED = Unavailable("the connection was closed before the operation left")

_VERDICTS = {
    b"unknown": "the server forgot whether the call was applied (a failover, a flush, or a reply lost for too long)",
    b"refused": "a later call of the same lane was answered before this one",
}


def _unexpected(error: Exception, maybe_applied: bool = False) -> DatabaseError:
    what = f"{type(error).__name__}: {shorten(str(error))}"
    failure = OutcomeUnknown(what, hint=LOOK) if maybe_applied else DatabaseError(f"it can't be sent: {what}")
    failure.__cause__ = error
    return failure
