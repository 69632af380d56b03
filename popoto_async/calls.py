"""Operations on their way: a ticket for each, a call for many, packed as the scripts read it. No I/O."""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter, methodcaller
from typing import Any, Protocol

import msgspec

from popoto_async.errors import OutcomeUnknown, PopotoError, Unavailable
from popoto_async.plan import Guard, Layout, Operation, Outcome
from popoto_async.tracing import Trace

_READS = {"load", "select", "fetch", "audit", "members", "tell", "weigh", "behind"}
"""Operations that change nothing, though the writing script may run them (it sweeps expired records)."""

_SHOW = {"load", "select", "fetch"}
"""Those among them that need no more of a model than its `Layout.brief`."""


_encode = msgspec.msgpack.Encoder().encode

LOOK = "load the record to see what is stored before you do it again"
"""What to do where an outcome is unknown."""


class Waiter(Protocol):
    """Who waits for the outcome of an operation."""

    def done(self) -> bool:
        """Whether it waits no more."""

    def deliver(self, outcome: Outcome) -> None:
        """Take the outcome."""

    def fail(self, error: BaseException) -> None:
        """Take the error in place of an outcome."""


class Holder(Protocol):
    """A lane whose operations another one's have to wait for."""

    pending: dict[str, int]
    follower: Any


class Ticket(msgspec.Struct, eq=False):
    """An operation in a queue, with those who wait for its outcome and the traces that want to know of it."""

    operation: Operation
    waiter: Waiter
    models: Collection[str]
    """The class keys of the models it is about."""
    alone: bool
    traces: tuple[Trace, ...]
    joined: list[Waiter] | None = None
    """Others who wait for the same."""
    behind: Holder | None = None
    """A lane that has to be done with these models first."""
    waits: bool = False
    """Whether it depends on what was asked before: it is planned again when all of that is answered."""
    left: bool = False
    outcome: Any = None
    """What the server answered, once it has."""

    @property
    def may_have_changed(self) -> bool:
        """Whether it may have changed something by now; a read that sweeps expired records is still a read."""
        return self.left and self.operation.writes and self.operation.name not in _READS

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for the outcome."""
        return not self.waiter.done() or (self.joined is not None and not all(map(_is_done, self.joined)))

    def join(self, ticket: Ticket) -> None:
        """Take over those who wait for an equal operation that won't be sent."""
        joined = self.joined = self.joined or []
        joined.append(ticket.waiter)
        joined += ticket.joined or ()
        self.traces += ticket.traces

    def settle(self) -> None:
        """Give the outcome to all, also to those who wait no more: their request was carried out."""
        self.waiter.deliver(self.outcome)
        for waiter in self.joined or ():
            waiter.deliver(self.outcome)

    def fail(self, error: PopotoError) -> None:
        """Give the error to all, an object of its own to each. Of what may have changed, the outcome is unknown."""
        if isinstance(error, Unavailable) and self.may_have_changed:
            error = OutcomeUnknown(f"the outcome can't be known: {error}", hint=LOOK)
        for waiter in (self.waiter, *(self.joined or ())):
            own = type(error)(*error.args, model=self.operation.layout.model, hint=error.hint)
            own.__cause__ = error.__cause__
            waiter.fail(own)


_is_done = methodcaller("done")


def models_of(operation: Operation) -> Collection[str]:
    """The class keys of the models that an operation is about."""
    if not operation.also and not operation.steps:
        return operation.layout.models
    return {operation.layout.klass, *operation.also}.union(*map(models_of, operation.steps))


class Call:
    """A call ready to send (`docs/architecture.md`): the operations of some tickets, and their values."""

    __slots__ = ("_brief", "_guarded", "_guards", "_models", "_numbers", "_operations", "tickets", "values", "writes")

    def __init__(self, tickets: list[Ticket]) -> None:
        self.tickets = tickets
        self.writes = any(map(_writes, tickets))
        self.values: list[bytes] = []
        self._brief = not self.writes and all(ticket.operation.name in _SHOW for ticket in tickets)
        self._models: list[msgspec.Raw] = []
        self._numbers: dict[Any, int] = {}
        self._guards: list[dict[str, int]] = []
        self._guarded: dict[int, int] = {}
        self._operations = [self._place(run) for run in _runs(tickets)]

    def header(
        self, clock: bool, lane: str | None = None, sequence: str | None = None, resend: bool | None = None
    ) -> bytes:
        """What scripts read first: these items, each packed, one after the other."""
        items = (self._models, self._operations, self._guards or None, lane, sequence, resend, clock or None)
        return _encode(items)[1:]  # a list of so few begins with one byte

    def _place(self, run: list[Operation]) -> dict[str, Any]:
        """Operations that differ in nothing but their record, as one of the header."""
        operation, values = run[0], self.values
        body = {**operation.body, "op": operation.name}
        m = self._model(operation.layout)
        if m > 1:
            body["m"] = m
        if values:  # else they begin where scripts take them to
            body["at"] = len(values) + 2
        if self.writes and operation.name in _READS:
            body["reads"] = 1
        if len(run) == 1:
            if operation.key is not None:
                body["key"] = operation.key
        else:
            body["each"] = [each.key for each in run]
            if operation.values:
                body["width"] = len(operation.values)
        for each in run:
            values += each.values
        if operation.guard:
            body["guard"] = self._guard(operation.guard)
        if operation.steps:
            body["ops"] = [{"at": 2, **self._place([step])} for step in operation.steps]
        return body

    def _model(self, layout: Layout) -> int:
        m = self._numbers.get(layout.wire)
        if m is None:
            self._models.append(msgspec.Raw(layout.brief if self._brief else layout.wire))
            m = self._numbers[layout.wire] = len(self._models)
        return m

    def _guard(self, guard: Guard) -> int:
        number = self._guarded.get(id(guard))
        if number is None:
            self._guards.append({"at": len(self.values) + 2})
            self.values += (guard.wire, *guard.values)
            number = self._guarded[id(guard)] = len(self._guards)
        return number


_writes = attrgetter("operation.writes")


def _runs(tickets: list[Ticket]) -> list[list[Operation]]:
    """The operations in their order, neighbours that differ in nothing but their record together."""
    runs: list[list[Operation]] = []
    last: Operation | None = None
    for ticket in tickets:
        operation = ticket.operation
        if last is not None and _alike(last, operation):
            runs[-1].append(operation)
        else:
            runs.append([operation])
        last = operation
    return runs


def _alike(one: Operation, other: Operation) -> bool:
    return (
        one.key is not None
        and other.key is not None
        and one.name == other.name
        and (one.layout is other.layout or one.layout.wire == other.layout.wire)
        and len(one.values) == len(other.values)
        and one.body == other.body
    )
