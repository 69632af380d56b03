"""What a run found, as data: one Entry per contestant and row, and the verdict on each promise."""

from dataclasses import dataclass, field

from benchmarks.measure import Summary
from benchmarks.rows import OURS, Row, Size, Target

Figures = dict[str, float]
"""One round: `seconds`, `client_cpu`, `server_cpu`, `reads`, `trips`, `commands`, `sent`, `bytes` per operation;
`stall` and `sockets` of the round."""

ABSENT = "absent"  # announced for later
UNAVAILABLE = "unavailable"  # this contestant can't do this here
FAILED = "failed"
MISMATCH = "mismatch"


@dataclass(slots=True)
class Entry:
    """One contestant in one row. `problem` is one of the words above, or empty where `rounds` has the figures."""

    contestant: str
    rounds: list[Figures] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    problem: str = ""
    reason: str = ""
    extra: Figures = field(default_factory=dict)

    def stop(self, problem: str, reason: object) -> None:
        self.problem = problem
        self.reason = " ".join(str(reason).split())

    def summary(self, figure: str) -> Summary | None:
        if self.problem:
            return None
        if figure in self.extra:
            return Summary.of([self.extra[figure]])
        values = [figures[figure] for figures in self.rounds if figure in figures]
        return Summary.of(values) if values else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise, what was measured for it, and whether it is met; None where something needed wasn't measured."""

    target: Target
    value: float | None

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.target.at_most


@dataclass(slots=True)
class Result:
    """One row with everything found for it."""

    row: Row
    size: Size | None
    entries: list[Entry]

    def entry(self, contestant: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.contestant == contestant), None)

    def median(self, contestant: str, figure: str) -> float | None:
        entry = self.entry(contestant)
        summary = entry.summary(figure) if entry else None
        return summary.median if summary else None

    @property
    def main_figure(self) -> str:
        return "bytes" if self.row.action == "memory" else "seconds"

    def ratio_to_ours(self, contestant: str) -> float | None:
        theirs, ours = self.median(contestant, self.main_figure), self.median(OURS, self.main_figure)
        return theirs / ours if theirs and ours else None

    def verdicts(self) -> list[Verdict]:
        return [Verdict(target, self._value_for(target)) for target in self.row.targets]

    def _value_for(self, target: Target) -> float | None:
        ours = self.median(OURS, target.figure)
        if target.against is None or ours is None:
            return ours
        theirs = self.median(target.against, target.figure)
        return ours / theirs if theirs else None

    def errors(self) -> list[str]:
        """What makes the run fail: wrong answers, crashes, and ours not taking part."""
        fatal = {FAILED, MISMATCH}
        return [
            f"{self.row.name}: {entry.contestant}: {entry.problem}: {entry.reason}"
            for entry in self.entries
            if entry.problem in fatal or (entry.problem == UNAVAILABLE and entry.contestant == OURS)
        ]
