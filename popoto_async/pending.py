"""Awaitables that say so when they were not awaited: `if not Model.exists(...)` must not be silently false."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import wraps
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

from popoto_async.errors import NotAwaited

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """A call that has not been awaited. Used as if it were its result, it raises NotAwaited with the line to write.

    It counts as a `collections.abc.Coroutine`, whose methods are the coroutine's own. `whose` is what the verb was
    called on, or what to call that: a class by its name, an instance by that in small letters, or as it says itself in
    `_written`.
    """

    __slots__ = ("_coroutine", "_verb", "_whose", "close", "send", "throw")

    def __init__(self, coroutine: Coroutine[Any, Any, T], whose: object, verb: str) -> None:
        self._coroutine = coroutine
        self._whose = whose
        self._verb = verb
        self.send = coroutine.send
        self.throw = coroutine.throw
        self.close = coroutine.close

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def _call(self) -> str:
        whose = self._whose
        if not isinstance(whose, str):
            owner = type(whose).__name__.lower()
            whose = whose.__name__ if isinstance(whose, type) else getattr(whose, "_written", owner)
        return f"{whose}.{self._verb}(…)"

    def _refuse(self) -> NoReturn:
        self._coroutine.close()
        raise NotAwaited(f"{self._call()} was not awaited", hint=f"write: await {self._call()}")

    def __bool__(self) -> bool:
        self._refuse()

    def __len__(self) -> int:
        self._refuse()

    def __iter__(self) -> Iterator[Any]:
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        # Dunder names and cr_* are what asyncio and inspect look for.
        if name.startswith(("__", "cr_", "_")):
            raise AttributeError(name)
        self._refuse()

    def __repr__(self) -> str:
        return f"<{self._call()}, not awaited>"


def verb(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an async function return a `Pending`: a method, or a function that is called by its module's name."""
    name = function.__name__.lstrip("_")
    module = None if "." in function.__qualname__ else function.__module__.rpartition(".")[2]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        return Pending(function(*args, **kwargs), args[0] if module is None else module, name)

    return call
