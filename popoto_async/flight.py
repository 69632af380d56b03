"""One request on its way: a future that plans when it is admitted, sends, and plans again where the server says so.

Verbs return flights, not coroutines, so that `gather` needs no task for each of thousands; where a coroutine is asked
for (`create_task`, `asyncio.run`), a flight behaves as one. Like a coroutine it begins when it is first waited for.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NoReturn, Protocol, TypeVar, TypeVarTuple

import msgspec

from popoto_async.calls import Ticket, models_of
from popoto_async.database import Database, require_seconds
from popoto_async.errors import NotAwaited, OutcomeUnknown, PopotoError, TimedOut
from popoto_async.pending import Pending
from popoto_async.plan import AGAIN, Operation, Outcome
from popoto_async.schema import Binding, Schema
from popoto_async.tracing import batching_off, current_traces

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ts = TypeVarTuple("Ts")


class Request(Protocol[T_co]):
    """What a flight carries: how to plan it, and what its outcome means."""

    schema: Schema

    @property
    def waits(self) -> bool:
        """Whether what it builds on changes with what was asked before it and is not answered yet."""

    def plan(self, binding: Binding) -> Operation:
        """The operation under a slot table."""

    def overtaken(self, outcome: Outcome) -> Schema:
        """It will be planned again, on what this outcome tells, as it was asked for at first; the class it is about."""

    def conclude(self, outcome: Outcome, binding: Binding) -> T_co:
        """The value of an outcome, or the error it stands for."""

    def withdraw(self) -> None:
        """The request was not carried out."""


class Independent:
    """What requests have in common that build on no stored value and prepare nothing."""

    schema: Schema
    waits = False

    def overtaken(self, outcome: Outcome) -> Schema:
        """Nothing is built on what is stored."""
        return self.schema

    def withdraw(self) -> None:
        """Nothing to give back."""


ON_INSTANCES = frozenset({"save", "delete", "increment", "push", "refresh", "expire_in", "expire_at", "persist"})
"""Verbs that are called on a record, and not on its class."""


def _written(model: str, verb: str) -> str:
    """What a verb is called on, as people would write it."""
    return model.lower() if verb.rpartition(".")[2] in ON_INSTANCES else model


class Flight(asyncio.Future[T]):
    """A request under way.

    `prepare` makes it when it is admitted, of the server's clock in seconds of 1970 and `arguments`; `cost` estimates
    what it takes this process, in microseconds.
    """

    __slots__ = (
        "_arguments",
        "_binding",
        "_context",
        "_coroutine",
        "_database",
        "_dispatcher",
        "_prepare",
        "_request",
        "_started",
        "_ticket",
        "_timeout",
        "_timer",
        "_told",
        "_verb",
        "_whose",
        "cost",
        "since",
    )

    # `fly` gives it these: an `__init__` of its own would cost a gather of thousands as much as all the rest of it.
    _whose: str
    _verb: str
    _database: Database
    _timeout: float | None
    _prepare: Callable[..., Request[T]]
    _arguments: tuple[Any, ...]
    _request: Request[T] | None
    _ticket: Ticket | None
    _timer: asyncio.TimerHandle | None
    _started: bool
    _told: bool
    cost: int
    since: float

    @property
    def _name(self) -> str:
        return f"{_written(self._whose, self._verb)}.{self._verb}"

    # On the way --------------------------------------------------------------------------------------------------

    def _start(self, *, in_turn: bool = False) -> None:
        self._started = True
        self._context = copy_context()
        try:
            self._dispatcher = dispatcher = self._database.session().dispatcher
            if self._timeout is None:
                self._timeout = self._database.settings.timeout
            if self._timeout is not None:
                require_seconds("timeout", self._timeout)
                self._timer = self.get_loop().call_later(self._timeout, self._expire)
        except PopotoError as error:
            self.set_exception(error)
            return
        if in_turn:
            # Where tasks begin too, so that a gather of flights and coroutines begins them in its order.
            self.get_loop().call_soon(dispatcher.start, self, context=dispatcher.context)
        else:
            dispatcher.start(self)

    def launch(self) -> None:
        """Plan and queue: called when the dispatcher admits the flight.

        What people wrote for their fields (defaults, validators, codecs) runs in the context of who waits, whoever's
        turn of the loop it is.
        """
        if not self.done():
            self._context.run(self._plan)

    def _plan(self) -> None:
        try:
            request = self._request = self._prepare(self._dispatcher.clock.now(), *self._arguments)
            binding = self._binding = self._database.binding(request.schema)
            self._send(request.plan(binding), request.waits)
        except BaseException as error:
            self.fail(error)

    def _send(self, operation: Operation, waits: bool = False) -> None:
        ticket = self._ticket = Ticket(operation, self, models_of(operation), batching_off.get(), current_traces.get())
        if waits:
            ticket.waits = True
        self._dispatcher.submit(ticket)

    def deliver(self, outcome: Outcome) -> None:
        """An outcome came back. Also where nobody waits any more: the request is told what was done."""
        self._context.run(self._take, outcome)

    def _take(self, outcome: Outcome) -> None:
        request, status = self._request, outcome[0]
        assert request is not None
        self._ticket = None  # it refers to this flight: without it, no cycle is left for the collector
        try:
            if status not in AGAIN:
                result = request.conclude(outcome, self._binding)
                if not self.done():
                    self._finish()
                    self.set_result(result)
            elif self.done():
                request.withdraw()
            else:
                self._again(request, status, outcome)
        except BaseException as error:
            self.fail(error)

    def _again(self, request: Request[T], status: bytes, outcome: Outcome) -> None:
        schema = request.overtaken(outcome)
        if status == b"slots":
            self._database.rebind(schema, outcome[1].decode())
        binding = self._binding = self._database.binding(request.schema)
        operation = request.plan(binding)
        if status == b"due":
            # Expired records wait; the writing script sweeps as many as one call may, and more in the next.
            operation = msgspec.structs.replace(operation, writes=True, join=None)
        self._send(operation)

    def fail(self, error: BaseException) -> None:
        """The request was not carried out, as far as is known."""
        self._ticket = None
        if isinstance(error, PopotoError) and error.model is None:
            error.model = self._whose
        if self._request is not None:
            self._request.withdraw()
        self._end(error)

    def _end(self, error: BaseException) -> None:
        if self.done():
            return
        self._finish()
        if isinstance(error, StopIteration):  # which a coroutine can't raise
            stopped, error = error, RuntimeError(f"{self._name}: StopIteration was raised on its way")
            error.__cause__ = stopped
        self.set_exception(error)

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def cancel(self, msg: Any = None) -> bool:
        """As a future's."""
        self._finish()  # what would keep it until its time is over
        return super().cancel(msg)

    def _expire(self) -> None:
        if self.done():
            return
        ticket, seconds = self._ticket, f"{self._timeout:g} s"
        if ticket is not None and ticket.may_have_changed:
            self.set_exception(
                OutcomeUnknown(
                    f"{self._name}: no outcome within {seconds}; it may yet be carried out",
                    model=self._whose,
                    hint="load the record to see what is stored before you do it again",
                )
            )
        else:
            self.set_exception(TimedOut(f"{self._name}: no answer within {seconds}", model=self._whose))

    # Waiting -----------------------------------------------------------------------------------------------------

    def add_done_callback(self, function: Callable[..., Any], /, *, context: Context | None = None) -> None:
        """Call a function when the flight is done; this begins it."""
        if not self._started:
            self._start(in_turn=True)
        _add_done_callback(self, function, context=context)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._started:
            self._start()
        return super().__await__()

    def _as_coroutine(self) -> Coroutine[Any, Any, T]:
        try:
            return self._coroutine
        except AttributeError:
            self._coroutine: Coroutine[Any, Any, T] = _wait(self)
            return self._coroutine

    def send(self, value: Any) -> Any:
        """As a coroutine's."""
        return self._as_coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """As a coroutine's."""
        self._use_up()  # a task that is cancelled before its first step never begins the flight
        return self._as_coroutine().throw(*error)

    def close(self) -> None:
        """As a coroutine's."""
        self._use_up()
        self._as_coroutine().close()

    def _use_up(self) -> None:
        if not self._started:
            self._started = True
            self.set_exception(RuntimeError(f"{self._name}(…) was closed before it began"))
            self.exception()  # nobody has to ask for it

    # Used without await ------------------------------------------------------------------------------------------

    def _refuse(self) -> NoReturn:
        self._told = True
        raise NotAwaited(f"{self._name}(…) was not awaited", model=self._whose, hint=f"write: await {self._name}(…)")

    def __bool__(self) -> bool:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a future's own is the old form of await
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        # What asyncio and inspect ask a coroutine for has such names.
        if name.startswith(("_", "cr_", "gi_", "ag_")) or name in Flight.__slots__:
            raise AttributeError(name)
        self._refuse()

    def __repr__(self) -> str:
        return f"<{self._name}(…) {'under way' if self._started else 'not awaited'}>"

    def __del__(self) -> None:
        if not self._started and not hasattr(self, "_told"):
            warnings.warn(f"{self._name}(…) was never awaited", RuntimeWarning, stacklevel=2)
        _tell_of_errors(self)  # that nobody asked for


_add_done_callback = asyncio.Future.add_done_callback
_tell_of_errors = asyncio.Future.__del__


async def _wait(flight: Flight[T]) -> T:
    return await flight


def fly(
    whose: str,
    verb: str,
    database: Database,
    cost: int,
    timeout: float | None,
    prepare: Callable[[float, *Ts], Request[T]],
    *arguments: *Ts,
) -> Coroutine[Any, Any, T]:
    """A flight; outside an event loop, a coroutine that starts one in the loop that runs it."""
    try:
        flight: Flight[T] = Flight(loop=asyncio.get_running_loop())
    except RuntimeError:
        later = partial(_later, whose, verb, database, cost, timeout, prepare, *arguments)
        return Pending(later, _written(whose, verb), verb)
    flight._whose, flight._verb, flight._database, flight.cost, flight._timeout = whose, verb, database, cost, timeout
    flight._prepare, flight._arguments = prepare, arguments
    flight._request = flight._ticket = flight._timer = None
    flight._started = False
    return flight


async def _later(*flight: Any) -> Any:
    return await fly(*flight)
