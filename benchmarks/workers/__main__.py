"""A worker: one contestant, one row. It reads commands from stdin and answers each with one line of JSON.

The first line is the job. The commands are `seed`, `prepare`, `run`, `answer`, `memory_growth` and `close`.
"""

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, TextIO

from benchmarks.measure import Heartbeat
from benchmarks.workers.actions import ACTIONS, Action, Job, memory_growth
from benchmarks.workers.contestant import Contestant, Unavailable

MODULES = {"ours": "ours", "floor": "floor", "bound": "bound", "popoto": "popoto_peer", "redis-om": "redis_om_peer"}
LONGEST_LINE = 1 << 20

Reply = dict[str, Any]


class Worker:
    """The contestant with its row, and the commands as methods."""

    def __init__(self, contestant: Contestant, job: Job) -> None:
        self._contestant = contestant
        self._job = job
        self._action: Action = ACTIONS[job.action](contestant, job, job.action)
        self.commands: dict[str, Callable[[Reply], Awaitable[Reply]]] = {
            "seed": self.seed,
            "prepare": self.prepare,
            "run": self.run,
            "answer": self.answer,
            "memory_growth": self.memory_growth,
            "close": self.close,
        }

    async def seed(self, _: Reply) -> Reply:
        dataset = self._job.dataset
        await self._contestant.create_many(dataset.records())
        if dataset.visits:
            await self._contestant.create_linked(dataset.all_visits(), dataset.all_bills())
        return {}

    async def prepare(self, command: Reply) -> Reply:
        await self._action.prepare(int(command["round"]))
        return {}

    async def run(self, _: Reply) -> Reply:
        gc.collect()
        await asyncio.sleep(0.005)  # what the last round left to do is not part of this one
        trips = self._contestant.round_trips()
        with Heartbeat() as heartbeat:
            cpu = time.process_time()
            start = time.perf_counter()
            found = await self._action.run()
            seconds = time.perf_counter() - start
            cpu = time.process_time() - cpu
        after = self._contestant.round_trips()
        return {
            "found": found,
            "seconds": seconds,
            "cpu": cpu,
            "stall": heartbeat.stall,
            "trips": None if trips is None or after is None else after - trips,
        }

    async def answer(self, _: Reply) -> Reply:
        return await self._action.answer()

    async def memory_growth(self, _: Reply) -> Reply:
        return {**await memory_growth(self._contestant, self._job.dataset)}

    async def close(self, _: Reply) -> Reply:
        await self._contestant.close()
        return {}


def load(name: str) -> Contestant:
    """The contestant, or Unavailable where its library is not installed."""
    try:
        module = import_module(f"benchmarks.workers.{MODULES[name]}")
    except ImportError as error:
        raise Unavailable(f"cannot be imported: {error.msg}") from error
    contestant: Contestant = module.CONTESTANT()
    return contestant


async def answer_to(work: Awaitable[Reply]) -> Reply:
    try:
        return {"ok": await work}
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    except Exception as error:  # reported to the run, which goes on with the others
        return {"failed": f"{type(error).__name__}: {error}"}


async def start(job: Job) -> tuple[Worker, Reply]:
    contestant = load(job.contestant)
    await contestant.open(job.url)
    return Worker(contestant, job), {"versions": contestant.versions, "note": contestant.note}


async def serve(out: TextIO) -> None:
    def reply(value: Reply) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    reader = asyncio.StreamReader(limit=LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    job = Job.of(json.loads(await reader.readline()))
    worker: Worker | None = None

    async def first() -> Reply:
        nonlocal worker
        worker, hello = await start(job)
        return hello

    reply(await answer_to(first()))
    while worker is not None and (line := await reader.readline()):
        command = json.loads(line)
        reply(await answer_to(worker.commands[command["do"]](command)))
        if command["do"] == "close":
            return


def main() -> None:
    # The answers keep the real stdout to themselves: whatever a library prints goes to stderr.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asyncio.run(serve(out))


if __name__ == "__main__":
    main()
