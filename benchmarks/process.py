"""A worker as the run sees it: a process that answers one question after another, or is ended when it doesn't."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from benchmarks.workers.actions import Job
from benchmarks.workers.contestant import Unavailable

ROOT = Path(__file__).resolve().parent.parent
ANSWER_WITHIN = 180.0  # seconds a worker has for any one command


class WorkerFailed(Exception):
    """The contestant raised, died, or did not answer in time."""


def environment(url: str) -> dict[str, str]:
    """The variables of a worker: popoto and redis-om take their server from the environment."""
    return {**os.environ, "REDIS_URL": url, "REDIS_OM_URL": url}


class WorkerProcess:
    """A running worker that has taken its job. Made by `working`."""

    def __init__(self, job: Job, process: subprocess.Popen[str], stderr: IO[bytes]) -> None:
        self.job = job
        self._process = process
        self._stderr = stderr
        hello = self._exchange(asdict(job))
        self.versions: dict[str, str] = hello["versions"]
        self.note: str = hello["note"]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer; Unavailable or WorkerFailed where it has none."""
        return self._exchange({"do": command, **arguments})

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        line = self._line_for(json.dumps(message))
        if not line:
            raise WorkerFailed(f"ended, or gave no answer in {ANSWER_WITHIN:.0f} s: {self._last_words()}")
        reply: dict[str, Any] = json.loads(line)
        if "unavailable" in reply:
            raise Unavailable(reply["unavailable"])
        if "failed" in reply:
            raise WorkerFailed(reply["failed"])
        answer: dict[str, Any] = reply["ok"]
        return answer

    def _line_for(self, message: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_WITHIN, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(message + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except BrokenPipeError:
            return ""
        finally:
            watchdog.cancel()

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


@contextmanager
def working(job: Job) -> Iterator[WorkerProcess]:
    """A worker for one job; ended at the end, closed or not."""
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
            env=environment(job.url),
            text=True,
            encoding="utf-8",
        )
        try:
            yield WorkerProcess(job, process, stderr)
        finally:
            process.kill()
            process.communicate()
