"""Many records: create_many, save_many, delete_many, and the two that create or find one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, TypeVar

import msgspec

from popoto_async.changes import Insert
from popoto_async.errors import RecordGone, ValidationError, shorten
from popoto_async.flight import fly
from popoto_async.plan import BESIDE, MEMBER, Outcome
from popoto_async.records import database_of, fill, problems, require_concrete
from popoto_async.saving import ADMISSION, timing
from popoto_async.schema import Binding, Schema

T = TypeVar("T")

WORKERS = 250
"""Records under way at once: about two full calls."""

FAILURES_KEPT = 1000
"""Failures that a summary keeps; all are counted."""

PROGRESS_EVERY = 100


class Summary(msgspec.Struct):
    """What became of many records: how many there were, were done, failed; and the first failures, (item, error)."""

    total: int = 0
    done: int = 0
    failed: int = 0
    failures: list[tuple[Any, BaseException]] = msgspec.field(default_factory=list)

    def count(self, item: Any, error: BaseException | None) -> None:
        """Count one record."""
        if error is None:
            self.done += 1
            return
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append((item, error))


async def _stream(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    elif isinstance(items, Iterable):
        for item in items:
            yield item
    else:
        raise ValidationError(f"many records come from an iterable, not {shorten(items)}", value=items)


class _Window:
    """What is under way: at most `WORKERS` at once, told of as each ends."""

    def __init__(self) -> None:
        self._under_way: dict[asyncio.Future[Any], Any] = {}
        self._ended: deque[tuple[Any, asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()

    def begin(self, item: Any, work: Awaitable[Any]) -> None:
        """Start the work for an item."""
        future = asyncio.ensure_future(work)
        self._under_way[future] = item
        future.add_done_callback(self._end)

    def _end(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled():
            future.exception()  # asked for: nothing is to warn of it where nobody comes to settle it any more
        self._ended.append((self._under_way.pop(future), future))
        self._wake.set()

    @property
    def is_full(self) -> bool:
        """Whether nothing more may begin before something has ended."""
        return len(self._under_way) >= WORKERS

    async def ended(self, *, all_of_it: bool = False) -> list[tuple[Any, asyncio.Future[Any]]]:
        """What has ended since this was last asked: at least one, or all; none where nothing is left."""
        while self._under_way and (all_of_it or not self._ended):
            self._wake.clear()
            await self._wake.wait()
        found = list(self._ended)
        self._ended.clear()
        return found

    def cancel(self) -> None:
        """Give up what has not ended."""
        for future in list(self._under_way):
            future.cancel()


async def each(
    items: Iterable[T] | AsyncIterable[T],
    work: Callable[[T], Awaitable[Any]],
    on_outcome: Callable[[T, BaseException | None], Any] | None,
    progress: Callable[[int], Any] | None,
) -> Summary:
    """Do the work for every item, `WORKERS` at a time, however many there are; errors of the items go to the summary.

    An error of the iterable ends it after what is under way; one of a callback, and cancellation, end it at once.
    """
    for name, callback in (("on_outcome", on_outcome), ("progress", progress)):
        if callback is not None and not callable(callback):
            raise ValidationError(f"{name} is called, which {shorten(callback)} can't be", value=callback)
    summary, window, stream = Summary(), _Window(), _stream(items)

    async def settle(*, all_of_it: bool = False) -> None:
        for item, future in await window.ended(all_of_it=all_of_it):
            error = _failure(future)
            summary.count(item, error)
            if on_outcome is not None:
                await _tell(on_outcome, item, error)
            if progress is not None and (summary.done + summary.failed) % PROGRESS_EVERY == 0:
                await _tell(progress, summary.done + summary.failed)

    try:
        while True:
            try:
                item = await anext(stream)
            except StopAsyncIteration:
                break
            except Exception:  # of the iterable
                await settle(all_of_it=True)
                raise
            summary.total += 1
            window.begin(item, work(item))
            if window.is_full:
                await settle()
        await settle(all_of_it=True)
    except BaseException:
        window.cancel()
        raise
    await _tell(progress, summary.done + summary.failed)
    return summary


def _failure(future: asyncio.Future[Any]) -> Exception | None:
    """The error of one record, of its hooks too. Cancellation is raised."""
    error = future.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


async def _tell(callback: Callable[..., Any] | None, *arguments: Any) -> None:
    result = callback(*arguments) if callback is not None else None
    if isawaitable(result):
        await result


def with_instances(cls: Any, work: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Work that is done for instances of the class and refused for anything else."""

    def begin(item: Any) -> Awaitable[Any]:
        return work(item) if isinstance(item, cls) else _refuse(cls, item, "instances")

    return begin


async def create_many(
    cls: Any,
    items: Iterable[Any] | AsyncIterable[Any],
    if_exists: str,
    on_outcome: Callable[..., Any] | None,
    progress: Callable[[int], Any] | None,
) -> Summary:
    """Create from dicts of values or new instances."""

    def create(item: Any) -> Awaitable[Any]:
        made: Awaitable[Any]
        if isinstance(item, dict):
            try:
                made = cls.create(if_exists=if_exists, **item)
            except TypeError:  # a key that is no name
                made = _refuse(cls, item)
        elif type(item) is cls and not item.is_saved:
            made = item.save(if_exists=if_exists)
        else:
            made = _refuse(cls, item)
        return made

    return await each(items, create, on_outcome, progress)


async def _refuse(cls: Any, item: Any, wanted: str = "dicts of values or new instances") -> None:
    raise ValidationError(
        f"{cls.__name__}: takes {wanted} of {cls.__name__}, not {shorten(item)}",
        model=cls.__name__,
        value=item,
    )


def _naming_index(schema: Schema, lookup: dict[str, Any]) -> str | None:
    """The unique index that a lookup names; None where it names the key. ValidationError where it names neither."""
    if lookup.keys() == {field.name for field in schema.keys}:
        return None
    for index in schema.indexes:
        if index.kind != MEMBER and index.kind not in BESIDE and lookup.keys() == set(index.inputs):
            return index.name
    raise ValidationError(
        f"{schema.model}: {', '.join(lookup) or 'nothing'} names neither the whole key nor a unique field",
        model=schema.model,
        value=lookup,
        hint="look up by all key fields or by one unique field, and pass the rest as defaults",
    )


class FindOrInsert(Insert):
    """A new record, or the one that is there already: (instance, whether it is new)."""

    def __init__(self, now: float, cls: Any, instance: Any, found: str | None) -> None:
        self._cls = cls
        schema = cls._meta
        super().__init__(schema, instance.__dict__, now, value=(instance, True), timing=timing(schema))
        self.if_exists, self.found = "return", found

    def conclude(self, outcome: Outcome, binding: Binding) -> Any:
        """The new instance, or one of what was found."""
        owner, row = {b"exists": (1, 2), b"unique": (3, 4)}.get(outcome[0], (0, 0))
        if row and outcome[row]:
            self.withdraw()
            return fill(self._cls, outcome[owner].decode(), outcome[row]), False
        return super().conclude(outcome, binding)


async def get_or_create(cls: Any, defaults: dict[str, Any] | None, lookup: dict[str, Any]) -> tuple[Any, bool]:
    """The record that the lookup names, or a new one."""
    schema: Schema = cls._meta
    defaults = {} if defaults is None else defaults
    require_concrete(schema)
    found = _naming_index(schema, lookup)
    if not isinstance(defaults, dict):
        raise ValidationError(
            f"{schema.model}: defaults is a dict of values by field, not {shorten(defaults)}",
            model=schema.model,
            value=defaults,
        )
    new = cls(**{**defaults, **lookup})
    await new.before_save()
    try:
        instance, created = await fly(
            schema.model,
            "get_or_create",
            database_of(schema),
            ADMISSION,
            None,
            FindOrInsert,
            cls,
            new,
            found,
        )
    except ValidationError:
        # What is there already needs no defaults, be they wrong or too few for a new record.
        earlier = None if problems(schema, new.__dict__, frozenset(lookup)) else await cls.query.get(**lookup)
        if earlier is None:
            raise
        return earlier, False
    if created:
        await instance.after_save()
    return instance, created


async def apply(instance: Any, values: dict[str, Any]) -> bool:
    """Give a stored record values and save it; False where it is gone."""
    for name, value in values.items():
        setattr(instance, name, value)
    try:
        await instance.save()
    except RecordGone:
        return False
    return True
