"""Awaitables that say so when they were not awaited: `if not Model.exists(...)` must not be silently false."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import partial, wraps
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from popoto_async.errors import NotAwaited

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """A call that has not been awaited. Used as if it were its result, it raises NotAwaited with the line to write.

    It counts as a `collections.abc.Coroutine`, and makes the one that it stands for when it is first used as that: a
    question that it refuses spoils nothing. `whose` is what the verb was called on, or what to call that: a class by
    its name, an instance by that in small letters, or as it says itself in `_written`.
    """

    __slots__ = ("_coroutine", "_make", "_told", "_verb", "_whose")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], whose: object, verb: str) -> None:
        self._make = make
        self._whose = whose
        self._verb = verb
        self._coroutine: Coroutine[Any, Any, T] | None = None
        self._told = False

    def _as_coroutine(self) -> Coroutine[Any, Any, T]:
        if self._coroutine is None:
            self._told = True  # also where it can't be made, of these arguments
            self._coroutine = self._make()
        return self._coroutine

    def __await__(self) -> Generator[Any, Any, T]:
        return self._as_coroutine().__await__()

    def send(self, value: Any) -> Any:
        """As a coroutine's."""
        return self._as_coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """As a coroutine's."""
        return self._as_coroutine().throw(*error)

    def close(self) -> None:
        """As a coroutine's."""
        self._as_coroutine().close()

    def _call(self) -> str:
        whose = self._whose
        if not isinstance(whose, str):
            owner = type(whose).__name__.lower()
            whose = whose.__name__ if isinstance(whose, type) else getattr(whose, "_written", owner)
        return f"{whose}.{self._verb}(…)"

    def _refuse(self) -> NoReturn:
        self._told = True
        raise NotAwaited(f"{self._call()} was not awaited", hint=f"write: await {self._call()}")

    def __bool__(self) -> bool:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __iter__(self) -> Iterator[Any]:
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        # What asyncio and inspect ask a coroutine for has such names.
        if name.startswith(("_", "cr_", "gi_", "ag_")):
            raise AttributeError(name)
        self._refuse()

    def __repr__(self) -> str:
        return f"<{self._call()}, not awaited>"

    def __del__(self) -> None:
        if self._coroutine is None and not self._told:
            warnings.warn(f"{self._call()} was never awaited", RuntimeWarning, stacklevel=2)


def verb(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an async function return a `Pending`: a method, or a function that is called by its module's name."""
    name = function.__name__.lstrip("_")
    module = None if "." in function.__qualname__ else function.__module__.rpartition(".")[2]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        return Pending(partial(function, *args, **kwargs), args[0] if module is None else module, name)

    return call
