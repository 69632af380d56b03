"""What a query did: its plan, what each condition let through, what it took. `explain()` runs it to tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from popoto_async.plan import ByDistance, ByKey, ByStored, OrderBy
from popoto_async.queries.selecting import Selection

CONTINUED = "continued: what it says is true of each record when it was read, not of one moment"


class Step(msgspec.Struct, frozen=True):
    """One condition of a query on the server.

    `role` is "driver" (candidates come from it), "order" (candidates come from it, in the order asked for), or "filter"
    (candidates are looked up in it). `estimated` is how many records the index says that it holds for the condition;
    `asked` how many candidates were looked up in it, `passed` how many of them it let through.
    """

    test: str
    role: str
    estimated: int
    asked: int = 0
    passed: int = 0
    depth: int = 0


class Explanation(msgspec.Struct, frozen=True):
    """How a query was answered. `str()` shows it.

    `plan` says where candidates come from; `pushed_down` whether the server brought the rows in order (else it sorted
    them, and parts of several calls were merged). `bound` is the most that going through the candidates of the cheapest
    condition can cost, in units of the budget: up to `budget`, a query takes one round trip. None where an index can't
    tell: beginnings and parts of texts, conditions through relations.
    """

    query: str
    plan: str
    order: str
    pushed_down: bool
    steps: tuple[Step, ...]
    records: int
    rows: int
    examined: int
    bound: float | None
    spent: float
    budget: int
    commands: dict[str, int]
    trips: int

    @property
    def continued(self) -> bool:
        """Whether it took several calls, so that its answer is true per record and no snapshot."""
        return self.trips > 1

    @property
    def driver(self) -> tuple[str, ...]:
        """Where candidates came from: conditions, or nothing where it was the class or an order alone."""
        return tuple(step.test for step in self.steps if step.role != "filter" and step.test not in _COMBINED)

    def __str__(self) -> str:
        lines = [
            self.query,
            f"plan      {self.plan}",
            f"order     {self.order}, {'pushed down' if self.pushed_down else 'sorted'}",
        ]
        for step in self.steps:
            words = f"{'  ' * step.depth}{step.test}: about {step.estimated:,} of {self.records:,}"
            looked_up = f", {step.passed:,} of {step.asked:,} looked up passed" if step.asked else ""
            lines.append(f"{step.role:<9} {words}{looked_up}")
        bound = "no bound known" if self.bound is None else f"{self.bound:,.0f} at most"
        ran = ", ".join(f"{count} {name}" for name, count in sorted(self.commands.items()))
        lines += [
            f"rows      {self.rows:,}, of {self.examined:,} examined",
            f"cost      {self.spent:,.0f} of a budget of {self.budget:,} a call, {bound}",
            f"commands  {sum(self.commands.values())}: {ran}",
            f"trips     {self.trips}{', ' + CONTINUED if self.continued else ''}",
        ]
        return "\n".join(lines)


_COMBINED = {"and": "all of", "or": "any of", "not": "not"}


async def explain(selection: Selection, query: str) -> Explanation:
    """Answer a question, throw its rows away, tell how it was done."""
    commands: Counter[str] = Counter()
    plans: list[str] = []
    trips = rows = examined = 0
    spent = 0.0
    first: dict[str, Any] = {}
    steps: tuple[Step, ...] = ()
    async for outcome in selection.calls(explain=True):
        report = msgspec.msgpack.decode(outcome[2])
        first = first or report
        trips += 1
        rows += len(outcome[1][1])
        examined += outcome[1][3]
        spent += report["spent"]
        commands.update({_text(name): count for name, count in dict(report["commands"]).items()})
        words = _plan(report, selection)
        if words not in plans:
            plans.append(words)
        steps = _added(steps, tuple(_steps(report)))
    limit = selection.plan.limit
    return Explanation(
        query,
        ", given up for: ".join(plans),
        _order(selection),
        not first["sorted"],
        steps,
        first["size"],
        rows if limit is None else min(rows, limit),
        examined,
        first["bound"] or None,
        spent,
        first["budget"],
        dict(commands),
        trips,
    )


def _text(raw: Any) -> str:
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _plan(report: dict[str, Any], selection: Selection) -> str:
    kind, along = report["kind"], report["along"]
    if kind == "walk":
        where = along or ("the class by key" if _order(selection) == "key" else "the order")
        return f"walk {where} until the page is full"
    if kind == "rings":
        return f"rings around the centre, the innermost first, within {along}"
    if kind == "index":
        return "nothing to look for"
    drivers = [step.test for step in _steps(report) if step.role == "driver"]
    return f"every candidate of {' and of '.join(drivers) or 'the class'}"


def _order(selection: Selection) -> str:
    words = [f"{_by(by)}{' descending' if down else ''}" for by, down in selection.plan.orders]
    return ", ".join(words) or "key"


def _by(by: OrderBy) -> str:
    if isinstance(by, ByKey):
        return "key"
    if isinstance(by, ByDistance):
        return f"distance of {by.field}"
    return f"{by.field} (stored)" if isinstance(by, ByStored) else by.index


def _steps(report: dict[str, Any]) -> Iterator[Step]:
    """The conditions of a tree, from the top; a conjunction at the top is not shown itself."""
    nodes = report["steps"]
    flat = nodes[0]["t"] == "and"
    walked = report["kind"] in {"walk", "rings"}
    for node in nodes[1:] if flat else nodes:
        kind, leaf = node["t"], node["t"] not in _COMBINED
        if kind == "all":
            continue
        along = walked and leaf and node["label"] == report["along"]
        drives = report["kind"] == "drive" and leaf and kind != "stored" and node["drives"]
        role = "order" if along else "driver" if drives else "filter"
        words = node["label"] if leaf else _COMBINED[kind]
        yield Step(words, role, int(node["estimate"]), node["asked"], node["passed"], node["depth"] - flat)


def _added(earlier: tuple[Step, ...], later: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps of several calls: what was asked and what passed, added up; a role that was not filter stays told."""
    if len(earlier) != len(later):
        return later
    found = []
    for a, b in zip(earlier, later, strict=True):
        role = b.role if b.role != "filter" else a.role
        found.append(Step(b.test, role, a.estimated, a.asked + b.asked, a.passed + b.passed, b.depth))
    return tuple(found)
