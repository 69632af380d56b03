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

    It counts as a `collections.abc.Coroutine`, whose methods are the coroutine's own.
    """

    __slots__ = ("_coroutine", "_name", "close", "send", "throw")

    def __init__(self, coroutine: Coroutine[Any, Any, T], name: str) -> None:
        self._coroutine = coroutine
        self._name = name
        self.send = coroutine.send
        self.throw = coroutine.throw
        self.close = coroutine.close

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def _refuse(self) -> NoReturn:
        self._coroutine.close()
        raise NotAwaited(f"{self._name}(…) was not awaited", hint=f"write: await {self._name}(…)")

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
        return f"<{self._name}(…), not awaited>"


def verb(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an async function return a `Pending`."""
    verb_name = function.__name__.lstrip("_")

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        whose: Any = args[0]
        owner = whose if isinstance(whose, type) else type(whose)
        return Pending(function(*args, **kwargs), f"{owner.__name__}.{verb_name}")

    return call
