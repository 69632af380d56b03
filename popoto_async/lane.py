"""A backlog and a connection: operations leave in order, many to a call, one call at a time.

Idle, a lane sends what is queued at the next turn of the loop; busy, it lets operations gather until the call is
answered, and sends them in the turn that brings the reply. All of that is done by callbacks of the loop. Only what has
to be waited for before a call can be sent (a connection, a pause, a script to be loaded) has a task, which ends as soon
as the call has left. So nothing a caller does reaches the connection: callers wait on futures of their own.

Each writing call has a sequence number under which the server remembers its outcomes, so a call whose reply was lost is
sent again and answered, not repeated. The task can be cancelled at any await (a loop that shuts down cancels every
task) and loses nothing by it: what it works on stands in `_taken` and `call`, and as long as somebody waits for it, it
goes on from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any

from popoto_async.backlog import Backlog
from popoto_async.calls import LOOK, Call, Ticket
from popoto_async.errors import REMEDIES, DatabaseError, OutcomeUnknown, PopotoError, Unavailable, shorten
from popoto_async.keys import lane_key
from popoto_async.plan import AGAIN, DONE
from popoto_async.scripts.loader import Script, load
from popoto_async.tracing import Stats
from popoto_async.wire import PASSING, UNTOUCHED, Clock, Lost, Refused, Wire, pack

SLICE = 1000
"""Estimated cost of the outcomes handed out in one turn of the loop."""

CALL_TIMEOUT = 30.0
"""Seconds without a reply after which a connection is given up and the call sent again."""

PATIENCE = 10.0
"""Seconds for which a lost server is looked for before its operations fail."""

CLOSE_TIMEOUT = 5.0
"""Seconds for which closing waits for the call under way."""

LEAVE_TIMEOUT = 1.0
"""Seconds for which closing waits for a call that nobody waits for, and for the server to forget the lane."""

LANE_TTL = 3600.0
"""Seconds for which the server remembers a lane's last outcomes (`run.lua`)."""

_EMPTY = f"{0:016}\x90"  # no outcomes, under a number before all others


class Lane:
    """One backlog with one connection and at most one call under way."""

    def __init__(
        self,
        connect: Callable[[Clock], Awaitable[Wire]],
        namespace: str | None,
        stats: Stats,
        clock: Clock,
        on_room: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = Context()  # not the callers': what the lane does outlives them
        self._connect = connect
        self._stats = stats
        self._clock = clock
        self._on_room = on_room
        self._key = lane_key(namespace, os.urandom(8).hex())
        self._sequence = 0
        self._remembered: float | None = None
        self._has_written = False
        self._connected_before = False
        self._patient: bool | None = None  # not tried yet: as far as any lane has reached a server
        self._closed = False
        self._idle: asyncio.Future[None] | None = None
        self._turning = False
        self._opening: asyncio.Task[Wire] | None = None
        self._task: asyncio.Task[None] | None = None
        self._taken: list[Ticket] = []
        self._left = self._had_left = False
        self._loaded = False
        self._lost_at: float | None = None
        self._delay = 0.0
        self._sent = 0.0
        self._answered: deque[Ticket] = deque()
        self.backlog = Backlog(stats, self._wake)
        self.wire: Wire | None = None
        self.call: Call | None = None
        """What is under way."""

    # Turns of the loop -------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Queue an operation."""
        if self._closed:
            ticket.fail(_CLOSED)
        else:
            self.backlog.add(ticket)

    def _wake(self) -> None:
        if not self._turning and not self._taken:
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn, context=self._context)

    def _turn(self) -> None:
        """Send what is queued, if nothing is under way. While the server works, hand out what it answered before."""
        self._turning = False
        self._go_on()
        if self._answered:
            self._hand_out()
            if self._answered or (self.backlog.tickets and not self._taken):
                self._turn_soon()
            elif self._taken and self._task is None and self.wire is not None:
                try:
                    self.wire.listen(self._hear)
                except Lost as error:
                    self._start_task(error)
        if self._idle is not None and not (self._taken or self._answered or self._idle.done()):
            self._idle.set_result(None)

    def _go_on(self) -> None:
        """Take the next call from the backlog and send it, unless one is under way."""
        while not self._taken and self.backlog.tickets:
            self._taken = self.backlog.take(settled=not self._answered)
            self._on_room()
            if not self._taken:
                return
            wire = self.wire
            if wire is None or not wire.alive or self._forgetful:
                self._start_task(None)
                return
            try:
                self._ask(wire)
            except Exception as error:
                self._start_task(error)

    def _hand_out(self) -> None:
        """Give outcomes to those who wait, so many that the loop is not held."""
        cost = 0
        while self._answered and cost <= SLICE:
            ticket = self._answered.popleft()
            self.backlog.done(ticket)
            ticket.settle()
            cost += ticket.operation.cost

    # A call ------------------------------------------------------------------------------------------------------

    def _ask(self, wire: Wire) -> None:
        """Send the call, or what was taken as one; nothing where nobody waits for any of that."""
        call = self.call or self._pack()
        if call is None:
            return
        self._sent = self._loop.time()
        clock = self._clock.is_old(self._sent)
        if call.writes:
            header = call.header(clock, self._key, f"{self._sequence:016}", self._left or None)
        else:
            header = call.header(clock)
        command = b"EVALSHA" if call.writes or not wire.server.has_read_only_scripts else b"EVALSHA_RO"
        self._stats.resent += self._left
        self._had_left, self._left = self._left, True
        key = call.tickets[0].operation.layout.klass
        wire.write(pack((command, self._script.sha.encode(), b"1", key.encode(), header, *call.values)))
        if not self._answered:
            # Else when that is handed out: no more than one call's outcomes wait for it.
            wire.listen(self._hear)

    def _pack(self) -> Call | None:
        """What was taken as a call, less what nobody waits for any more; None if that is all."""
        wanted: list[Ticket] = []
        for ticket in self._taken:
            if ticket.wanted:
                wanted.append(ticket)
            else:
                self.backlog.fail(ticket, _CANCELLED)
        self._taken = wanted
        try:
            call = Call(wanted)
        except Exception:
            call = Call(self._sound())
        if not call.tickets:
            self._finish()
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
                Call([ticket])
                sound.append(ticket)
            except Exception as error:
                self.backlog.fail(ticket, _unexpected(error))
        self._taken = sound
        return sound

    @property
    def _script(self) -> Script:
        return load("run.lua" if self.call is None or self.call.writes else "read.lua")

    def _hear(self, reply: Any) -> None:
        """What came back: the reply to the call, Refused or Lost. Called in the turn of the loop that brings it."""
        try:
            if isinstance(reply, Exception):
                raise reply
            self._accept(reply)
        except Refused as error:
            self._left = self._had_left  # this time it was not done
            self._start_task(error)
        except Exception as error:
            self._start_task(error)

    def _accept(self, reply: Any) -> None:
        """Take up the reply, and send the next call; where none is queued, hand out what this one brought."""
        call = self.call
        assert call is not None, "a reply belongs to a call"
        tells = isinstance(reply, list)
        micros = reply[0] if tells else reply
        if micros in _VERDICTS:
            self._finish(Unavailable(_VERDICTS[micros]))  # which says of writes that their outcome is unknown
        else:
            for number, ticket in enumerate(call.tickets, 1):
                ticket.outcome = (tells and reply[number]) or DONE
            if call.writes:
                self._remembered = time.monotonic()
                self._has_written = True
            if micros:
                self._clock.learn(micros / 1e6, self._sent, self._loop.time())
            self._patient = True
            self._stats.round_trips += 1
            self._stats.operations += len(call.tickets)
            for ticket in call.tickets:
                for trace in ticket.traces:
                    trace.record(self._stats.round_trips, ticket.operation.name, ticket.operation.layout.model)
            again = [ticket for ticket in call.tickets if ticket.outcome[0] in AGAIN] if tells else []
            self._answered += (
                [ticket for ticket in call.tickets if ticket.outcome[0] not in AGAIN] if again else call.tickets
            )
            self._finish()
            self.backlog.again(again)
        self._go_on()
        if not self._taken:
            self._hand_out()
        self._turn_soon()  # after those who are answered now: what they ask next leaves in the turn in which they do

    def _finish(self, error: PopotoError | None = None) -> None:
        """Be ready for the next call; the tickets of this one fail where there was an error."""
        tickets, self._taken, self.call = self._taken, [], None
        self._left = self._loaded = False
        self._lost_at, self._delay = None, 0.0
        if error is not None:
            for ticket in tickets:
                self.backlog.fail(ticket, error)

    # What has to be waited for -----------------------------------------------------------------------------------

    def _start_task(self, error: Exception | None) -> None:
        # Not by the loop's task factory, which may run it to its end before it returns it.
        self._task = asyncio.Task(self._work(error), loop=self._loop, context=Context())

    async def _work(self, error: Exception | None) -> None:
        """Get over what kept the call from being answered, and do what it needs, until it has left or failed."""
        try:
            while self._taken:
                try:
                    if error is not None:
                        last, error = error, None
                        await self._get_over(last)
                    else:
                        self._ask(await self._connected())
                        return
                except asyncio.CancelledError:
                    await self._drop()  # a reply may be on its way that nobody would take for what it is
                    if self._closed or not self._wanted:
                        self._give_up()
                        raise
                    if task := asyncio.current_task():
                        task.uncancel()
                except Exception as caught:
                    error = caught
        finally:
            self._task = None
            self._turn_soon()

    async def _get_over(self, error: Exception) -> None:
        """Do what another attempt needs; or have the call fail, and with a lost server all that is queued."""
        failure: PopotoError
        match error:
            case Refused(code="NOSCRIPT") if self.wire is not None and not self._loaded:
                self._loaded = True
                await self.wire.command("SCRIPT", "LOAD", self._script.text)
                return
            case Refused():
                self._loaded = False
                if error.code == "READONLY":
                    await self._drop()  # after a failover the server's name leads to another one
                failure = self._refusal(error)
            case Lost():
                await self._drop()
                failure = Unavailable(f"the connection broke: {error}")
            case PopotoError():
                failure = error
            case _:  # none that belongs here; the operations must not wait for ever all the same
                await self._drop()
                failure = _unexpected(error, self._left and self.call is not None and self.call.writes)
        if not isinstance(failure, Unavailable):
            self._finish(failure)
            return
        self._lost_at = self._lost_at or time.monotonic()
        patient = self._clock.known if self._patient is None else self._patient
        if self._closed or not patient or time.monotonic() - self._lost_at > PATIENCE:
            # Those in the queue would only wait as long again. And from now on one attempt is enough to give up.
            self._patient = False
            self._finish(failure)
            self.backlog.clear(failure)
            self._on_room()
            return
        delay, self._delay = self._delay, min(2 * self._delay, 1.0) or 0.02
        await asyncio.sleep(delay)

    def _refusal(self, error: Refused) -> PopotoError:
        """What the server's answer to a whole call means: Unavailable where it passes by itself."""
        if error.code in PASSING or (error.code == "READONLY" and self._has_written):
            return Unavailable(f"the server is not ready: {error.code} {error}")
        refused = f"the server refused the call: {error.code} {error}"
        if error.code in UNTOUCHED or self.call is None or not self.call.writes:
            return DatabaseError(refused, hint=REMEDIES.get(error.code))
        return OutcomeUnknown(refused, hint=LOOK)

    async def _connected(self) -> Wire:
        """A connection to a server that can tell whether it did the call."""
        if self.wire is None or not self.wire.alive:
            await self._drop()
            await self.ready()
        wire = self.wire
        if wire is None:
            raise Lost("dropped")
        if not self._left and self._forgetful:
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

    # The connection ----------------------------------------------------------------------------------------------

    async def ready(self) -> Wire:
        """The connection, opened if need be: once, for all who wait for it."""
        while self.wire is None:
            if self._closed:
                raise Unavailable(str(_CLOSED))
            if self._opening is None:
                self._opening = asyncio.Task(self._open(), loop=self._loop, context=Context())
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
            wire.listen(None)
            await wire.close()

    # The end -----------------------------------------------------------------------------------------------------

    @property
    def _wanted(self) -> bool:
        """Whether anybody waits for what is under way, answered or queued."""
        return any(ticket.wanted for some in (self._taken, self._answered, self.backlog.tickets) for ticket in some)

    async def close(self) -> None:
        """Fail what is queued, let the call under way finish, close the connection."""
        self._closed = True
        self.backlog.clear(_CLOSED)
        try:
            self._idle = self._loop.create_future()
            self._turn_soon()
            await asyncio.wait([self._idle], timeout=CLOSE_TIMEOUT if self._wanted else LEAVE_TIMEOUT)
            ours = [task for task in (self._task, self._opening) if task is not None]
            for task in ours:
                task.cancel()
            await asyncio.gather(*ours, return_exceptions=True)
            if not self._taken:
                await self._leave()
        finally:
            await self._drop()
            self._give_up()

    def _give_up(self) -> None:
        """Nothing more will come: those who wait are told what is known."""
        for ticket in self._answered:
            self.backlog.done(ticket)
            ticket.settle()
        self._answered.clear()
        self._finish(Unavailable("the connection was closed while the operation was under way"))
        self.backlog.clear(_CLOSED)

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
