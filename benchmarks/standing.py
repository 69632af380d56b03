"""The two rows without rounds of calls: what a record weighs on the server, and what an import costs."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.contest import job_for, outcome_in
from benchmarks.judge import check_answer
from benchmarks.outcome import Entry
from benchmarks.process import ROOT, WorkerFailed, environment, working
from benchmarks.rows import Row, Size
from benchmarks.servers import Server
from benchmarks.workers.contestant import Unavailable

SETTLED_WITHIN = 10.0  # seconds

IMPORTS = {"ours": "popoto_async", "floor": "redis.asyncio", "popoto": "popoto", "redis-om": "aredis_om"}

_TIMED_IMPORT = """
import time
start = time.perf_counter()
import {module} as module
print(time.perf_counter() - start)
if not getattr(module, "__file__", None):
    raise ImportError("{module} is a folder without code")
"""


def weigh(server: Server, row: Row, size: Size, contestants: Sequence[str]) -> list[Entry]:
    """used_memory before and after, alone on the server, with no client of the contestant connected."""
    entries = [Entry(contestant) for contestant in contestants]
    for entry in entries:
        with outcome_in(entry):
            server.flush_all()
            before = settled_memory(server)
            with working(job_for(server, entry.contestant, row, size)) as worker:
                entry.versions, entry.note = worker.versions, worker.note
                worker.ask("seed")
                check_answer(row.action, size.dataset, (), worker.ask("answer"))
                worker.ask("close")
            entry.rounds.append({"bytes": (settled_memory(server) - before) / size.ops})
    server.flush_all()
    return entries


def settled_memory(server: Server) -> int:
    """used_memory once lazy frees, table growth and departing clients no longer move it."""
    end = time.monotonic() + SETTLED_WITHIN
    previous = -1
    while time.monotonic() < end:
        memory = server.client.info("memory")
        used = int(memory["used_memory"])
        pending = int(memory.get("lazyfree_pending_objects", 0))
        if not pending and abs(used - previous) < 1024:
            return used
        previous = used
        time.sleep(0.3)
    return previous


def time_imports(server: Server, size: Size, contestants: Sequence[str]) -> list[Entry]:
    """Each import in a fresh interpreter, in turn; the interpreter's own start is not counted."""
    entries = [Entry(contestant) for contestant in contestants]
    with tempfile.TemporaryDirectory() as bytecode:
        for turn in range(size.rounds + 1):
            for entry in entries:
                if entry.problem:
                    continue
                with outcome_in(entry):
                    seconds = _one_import(IMPORTS[entry.contestant], server.url(entry.contestant), bytecode)
                    if turn:  # the first one writes the byte code
                        entry.rounds.append({"seconds": seconds})
    return entries


def _one_import(module: str, url: str, bytecode: str) -> float:
    # Byte code is kept in one folder for all, also where the environment forbids to write it beside the source.
    caching = {**environment(url), "PYTHONPYCACHEPREFIX": bytecode}
    caching.pop("PYTHONDONTWRITEBYTECODE", None)
    code = _TIMED_IMPORT.format(module=module)
    finished = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        cwd=ROOT,
        env=caching,
        text=True,
        timeout=60,
    )
    if finished.returncode == 0:
        return float(finished.stdout.split()[-1])
    last = (finished.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if last.startswith(("ImportError", "ModuleNotFoundError")):
        raise Unavailable(f"cannot be imported: {last.partition(': ')[2]}")
    raise WorkerFailed(last)
