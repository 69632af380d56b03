"""A process that never outlives the one that started it, and the descriptors that no forked child may keep open.

How it ends with its owner, even with one that is killed with SIGKILL: beside each process runs a shell that reads a
pipe whose other end only the owner holds. The kernel closes that end when the owner is gone, the shell reads the end of
file and stops the process. (`PR_SET_PDEATHSIG` would not do: it needs a `preexec_fn`, which is unsafe with threads, and
it fires when the *thread* that started the process ends, which here is a worker thread.) A forked child closes its
copies of these ends at once, so it can't keep a process alive, and it never stops one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

PATIENCE = 10.0
"""Seconds a process may take to stop before it is killed."""

# The shell tells the watcher its pid before it turns into the command, so there is no moment at which that runs
# unwatched. From then on its stdout is the log.
_RUN = 'echo $$; exec "$@" >&2'

# A line after the pid says that the owner has stopped the server itself; the end of file, that the owner is gone.
_WATCH = """
if read -r pid; then
    read -r _ && exit 0
    kill -s "$1" "$pid"
fi
rm -rf -- "$2"
n=0
while kill -0 "$pid" && [ $n -lt 50 ]; do sleep 0.1 || sleep 1; n=$((n + 1)); done
kill -s KILL "$pid"
"""


class OwnedProcess:
    """A command that runs until `stop()` or until this process ends, in whatever way.

    Its output is appended to `log`, `lock` becomes its standard input, and `scratch` is removed with it.
    """

    def __init__(
        self, command: list[str], *, log: Path, scratch: Path, stop_with: signal.Signals, lock: int | None = None
    ) -> None:
        self.owner = os.getpid()
        self.scratch = scratch
        self.stop_with = stop_with
        self._stopping = threading.Lock()
        watch = ["/bin/sh", "-c", _WATCH, "sh", stop_with.name.removeprefix("SIG"), str(scratch)]
        run = ["/bin/sh", "-c", _RUN, "sh", *command]
        read_end, self._write_end = os.pipe()
        keep_private(self._write_end)
        # Sessions of their own: a Ctrl-C in the terminal is for the owner, which stops the process when it is done.
        try:
            with log.open("ab") as output:
                self.watcher = subprocess.Popen(
                    watch, stdin=read_end, stdout=output, stderr=output, start_new_session=True, cwd="/"
                )
                self.process = subprocess.Popen(
                    run,
                    stdin=subprocess.DEVNULL if lock is None else lock,
                    stdout=self._write_end,
                    stderr=output,
                    start_new_session=True,
                    cwd="/",
                )
        except BaseException:
            close(self._write_end)
            raise
        finally:
            os.close(read_end)

    @property
    def mine(self) -> bool:
        """Whether this process started it, and did not inherit it by a fork."""
        return os.getpid() == self.owner

    @property
    def alive(self) -> bool:
        """Whether it runs. Only its owner can ask."""
        if self.process.poll() is None:
            return True
        self.stop()  # its pid is free for others from now on: the watcher must not know it any longer
        return False

    def stop(self) -> None:
        """Stop it and wait until it is gone. Does nothing the second time, and nothing in a forked child."""
        if not self.mine:
            return
        with self._stopping:
            if self.watcher.returncode is not None:
                return
            self.process.send_signal(self.stop_with)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            with contextlib.suppress(BrokenPipeError):  # somebody killed the watcher
                os.write(self._write_end, b"stopped\n")
            close(self._write_end)
            self.watcher.wait()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def disown(self) -> None:
        """In a forked child, which can't wait for its parent's children: told so, Popen does not warn."""
        self.process.returncode = self.watcher.returncode = 0


_private: set[int] = set()


def keep_private(descriptor: int) -> None:
    """Have a descriptor (a pipe's end, a lock) closed in forked children."""
    _private.add(descriptor)


def close(descriptor: int) -> None:
    """Close a descriptor that was kept private."""
    _private.discard(descriptor)
    os.close(descriptor)


def _close_all() -> None:
    for descriptor in list(_private):
        close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
