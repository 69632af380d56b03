"""Operations in the order they came: which reads join, how many leave in one call, what is pending of each model."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from popoto_async.calls import Ticket
from popoto_async.errors import PopotoError
from popoto_async.plan import WAITED
from popoto_async.tracing import Stats

CALL_COST = 5000
"""Estimated microseconds of server time in one call."""

CALL_BYTES = 1 << 20
"""Bytes of values in one call; an operation above that travels alone."""


class Backlog:
    """The operations of one lane: those that wait, in order, and those that are not answered yet, counted by model.

    An operation is pending from `add` until `done` or `fail`.
    """

    def __init__(self, stats: Stats, wake: Callable[[], None]) -> None:
        self._stats = stats
        self._joins: dict[str, dict[Any, Ticket]] = {}
        self.wake = wake
        """Called when there may be something to take."""
        self.tickets: deque[Ticket] = deque()
        self.returned: list[Ticket] | None = None
        """While outcomes are handed out that mean to plan again: what is queued then, before all that waits."""
        self.pending: dict[str, int] = {}
        """Operations not answered yet, by the class key of each model that they are about."""
        self.follower: Backlog | None = None
        """Another lane's, whose next operation waits until this one has none of its models pending."""

    def add(self, ticket: Ticket) -> None:
        """Queue an operation, or let it join an identical read with no write of its model in between."""
        operation, models = ticket.operation, ticket.models
        if self.returned is not None:
            self.returned.append(ticket)
        else:
            if operation.writes:
                if self._joins:
                    for model in models:
                        self._joins.pop(model, None)
            elif operation.join is not None:
                joins = self._joins.setdefault(operation.layout.klass, {})
                join = (operation.layout.wire, operation.join)
                earlier = joins.get(join)
                if earlier is not None and not earlier.alone and not ticket.alone:
                    earlier.join(ticket)
                    self._stats.joined += 1
                    return
                joins[join] = ticket
            self.tickets.append(ticket)
            self.wake()
        for model in models:
            self.pending[model] = self.pending.get(model, 0) + 1

    def again(self, tickets: Iterable[Ticket]) -> None:
        """Have these planned again: they stand in the queue as they did, before all that was asked later."""
        returned: list[Ticket] = []
        self.returned = returned
        for ticket in tickets:
            ticket.settle()
            self.done(ticket)  # only now, so that at no moment another lane takes itself to be the next
        self.returned = None
        self.tickets.extendleft(reversed(returned))

    def take(self, settled: bool) -> list[Ticket]:
        """The tickets of the next call; `settled` says whether all who were answered know.

        None while the first one waits for another lane, or for one that was answered.
        """
        tickets = self.tickets
        taken: list[Ticket] = []
        cost = size = 0
        while tickets:
            ticket = tickets[0]
            if ticket.behind is not None and not ticket.behind.pending.keys().isdisjoint(ticket.models):
                ticket.behind.follower = self
                break
            if ticket.waits:
                if taken or not settled:
                    break
                ticket.outcome = WAITED
                self.again([tickets.popleft()])
                continue
            cost += ticket.operation.cost
            size += ticket.operation.size
            if taken and (cost > CALL_COST or size > CALL_BYTES or ticket.alone or taken[-1].alone):
                break
            taken.append(tickets.popleft())
        self._joins.clear()
        return taken

    def done(self, ticket: Ticket) -> None:
        """It is answered; who waits for that may go on."""
        for model in ticket.models:
            left = self.pending[model] - 1
            if left:
                self.pending[model] = left
                continue
            del self.pending[model]
            if self.follower is not None:
                self.follower.wake()
                self.follower = None

    def fail(self, ticket: Ticket, error: PopotoError) -> None:
        """It won't be answered."""
        self.done(ticket)
        ticket.fail(error)

    def clear(self, error: PopotoError) -> None:
        """Fail everything that waits."""
        waiting = list(self.tickets)
        self.tickets.clear()
        self._joins.clear()
        for ticket in waiting:
            self.fail(ticket, error)
