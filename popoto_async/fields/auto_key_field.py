"""Keys that make themselves: AutoKeyField and its strategies.

Within a process, ids of `ulid` and `ksuid` strictly increase, also within one tick of their clocks and when the clock
is set back. A forked child starts from fresh random bits, so it repeats none of its parent's.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Unpack
from uuid import uuid4

from popoto_async.errors import shorten
from popoto_async.fields.base import Options
from popoto_async.fields.key_field import KeyField
from popoto_async.types import TypeVar

T = TypeVar("T", bound=str | None, default=str)


class Increasing:
    """Binary ids that never repeat and never go back: a clock ahead of `width` random bytes.

    `tick` gives the present tick; `build` makes the id of a tick and its payload. Within a tick (or while the clock is
    behind) the payload grows by one; when it overflows, the tick is advanced.
    """

    def __init__(self, tick: Callable[[], int], width: int, build: Callable[[int, bytes], str]) -> None:
        self._tick, self._width, self._build = tick, width, build
        self._lock = threading.Lock()
        self._last = -1
        self._payload = 0
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # The lock may have been held by a thread that the child doesn't have.
        self._lock = threading.Lock()
        self._payload = self._random()

    def _random(self) -> int:
        # The top bit stays clear, so that a tick has room for 2**(8 * width - 1) more.
        return int.from_bytes(os.urandom(self._width), "big") >> 1

    def __call__(self) -> str:
        """The next id."""
        with self._lock:
            now = self._tick()
            if now > self._last:
                self._last, self._payload = now, self._random()
            else:
                self._payload += 1
                if self._payload >> (8 * self._width):
                    self._last, self._payload = self._last + 1, self._random()
            return self._build(self._last, self._payload.to_bytes(self._width, "big"))


KSUID_EPOCH = 1_400_000_000
"""Seconds of 1970 at which KSUID's 32-bit clock starts (segmentio/ksuid)."""


def _ulid(milliseconds: int, payload: bytes) -> str:
    # Imported with the first id: it reads the metadata of its package, for which few programs should have to wait.
    return str(import_module("ulid").ULID(milliseconds.to_bytes(6, "big") + payload))


def _ksuid(seconds: int, payload: bytes) -> str:
    return str(import_module("ksuid").Ksuid.from_bytes(seconds.to_bytes(4, "big") + payload))


STRATEGIES: dict[str, Callable[[], str]] = {
    "uuid4": lambda: uuid4().hex,
    "ulid": Increasing(lambda: time.time_ns() // 1_000_000, 10, _ulid),
    "ksuid": Increasing(lambda: int(time.time()) - KSUID_EPOCH, 16, _ksuid),
}
"""Strategy → the next id."""


class AutoKeyField(KeyField[T]):
    """A key that fills itself at construction: `uuid4` (32 hex), `ulid` (26), `ksuid` (27). An id passed in is kept."""

    always_unique = True
    generates = True
    allowed = (str,)

    def __init__(self, *, strategy: str = "uuid4", **options: Unpack[Options]) -> None:
        if strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise self.refused(f"unknown strategy {shorten(strategy)}, choose one of {known}")
        super().__init__(**options)
        if self.has_default:
            raise self.refused("it fills itself, a default would never be used", "leave default out, or use KeyField")
        self.strategy = strategy
        self._next = STRATEGIES[strategy]

    def initial(self) -> Any:
        """A new id."""
        return self._next()
