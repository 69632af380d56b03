"""Rounds: the contestants of a row take turns, each in a process of its own, watched from the server's side."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.dataset import Dataset
from benchmarks.judge import Mismatch, check_answer, check_found
from benchmarks.measure import ServerCounters, cost_of_reading
from benchmarks.outcome import FAILED, MISMATCH, UNAVAILABLE, Entry, Figures
from benchmarks.process import WorkerFailed, WorkerProcess, working
from benchmarks.rows import OURS, Row, Size
from benchmarks.servers import Server
from benchmarks.workers.actions import QUESTIONS, Job
from benchmarks.workers.contestant import Unavailable

FEWEST_ROUNDS = 3  # before a slow contestant may stop early
WARM_UP = 0  # the number of the round that isn't counted: connections, scripts and caches are made in it

READING = frozenset({"load_together", "count", "check_indexes", *QUESTIONS})
CHANGING = frozenset({"update_by_query", "delete_by_query", "expiry", "rebuild"})


@dataclass(slots=True)
class Contest:
    """One run on one server. Remembers what is stored, so that reading rows share their records."""

    server: Server
    stored: dict[str, Dataset] = field(default_factory=dict)
    cost: ServerCounters = field(default=ServerCounters(0, 0, 0, 0))

    def hold(self, row: Row, size: Size, contestants: Sequence[str]) -> list[Entry]:
        entries = [Entry(contestant) for contestant in contestants]
        with ExitStack() as stack:
            workers: dict[str, WorkerProcess] = {}
            for entry in entries:
                with outcome_in(entry):
                    workers[entry.contestant] = self._start(stack, entry, row, size)
            self.cost = cost_of_reading(self.server.info)
            for turn in range(size.rounds + 1):
                for entry in _rotated(entries, turn):
                    if entry.problem or _spent(entry, size):
                        continue
                    with outcome_in(entry):
                        figures = self._round(workers[entry.contestant], entry, turn)
                        if turn != WARM_UP:
                            entry.rounds.append(figures)
            for entry in entries:
                if not entry.problem:
                    with outcome_in(entry):
                        self._finish(workers[entry.contestant], entry)
        return entries

    def _start(self, stack: ExitStack, entry: Entry, row: Row, size: Size) -> WorkerProcess:
        contestant = entry.contestant
        needed = size.dataset if row.action in READING | CHANGING else None
        if needed is None or row.action in CHANGING or self.stored.get(contestant) != needed:
            self.stored.pop(contestant, None)
            self.server.flush(contestant)
        worker = stack.enter_context(working(job_for(self.server, contestant, row, size)))
        entry.versions, entry.note = worker.versions, worker.note
        if needed is not None and contestant not in self.stored:
            worker.ask("seed")
            if row.action in READING:
                self.stored[contestant] = needed
        return worker

    def _round(self, worker: WorkerProcess, entry: Entry, turn: int) -> Figures:
        job = worker.job
        ops = job.ops
        worker.ask("prepare", round=turn)
        before = ServerCounters.read(self.server.info)
        reply = worker.ask("run")
        counted = ServerCounters.read(self.server.info) - before - self.cost
        check_found(job.action, job.dataset, ops, reply["found"])
        figures = {
            "seconds": reply["seconds"] / ops,
            "client_cpu": reply["cpu"] / ops,
            "server_cpu": max(counted.cpu, 0.0) / ops,
            "reads": counted.reads / ops,
            "commands": counted.commands / ops,
            "sent": max(counted.sent, 0.0) / ops,
            "stall": reply["stall"],
            "sockets": float(self.server.sockets(entry.contestant)),
        }
        if reply["trips"] is not None:
            figures["trips"] = reply["trips"] / ops
        return figures

    def _finish(self, worker: WorkerProcess, entry: Entry) -> None:
        rounds = range(len(entry.rounds) + 1)
        check_answer(worker.job.action, worker.job.dataset, rounds, worker.ask("answer"))
        if worker.job.action == "create_many" and entry.contestant == OURS:
            peaks = worker.ask("memory_growth")
            entry.extra = {
                "memory_once": peaks["once"],
                "memory_thrice": peaks["thrice"],
                "memory_growth": peaks["thrice"] / peaks["once"],
            }
        worker.ask("close")


@contextmanager
def outcome_in(entry: Entry) -> Iterator[None]:
    """Writes what goes wrong inside into the entry: one contestant's trouble is not the others'."""
    try:
        yield
    except Unavailable as reason:
        entry.stop(UNAVAILABLE, reason)
    except WorkerFailed as reason:
        entry.stop(FAILED, reason)
    except Mismatch as reason:
        entry.stop(MISMATCH, reason)


def job_for(server: Server, contestant: str, row: Row, size: Size) -> Job:
    return Job(contestant, row.action, server.url(contestant), size.dataset, size.ops_of(contestant))


def _rotated(entries: Sequence[Entry], turn: int) -> list[Entry]:
    """Another one begins each time, so nobody always runs behind the same neighbour."""
    first = turn % len(entries)
    return [*entries[first:], *entries[:first]]


def _spent(entry: Entry, size: Size) -> bool:
    ops = size.ops_of(entry.contestant)
    used = sum(figures["seconds"] for figures in entry.rounds) * ops
    return len(entry.rounds) >= FEWEST_ROUNDS and used > size.budget
