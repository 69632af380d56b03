"""Update and delete by query: records are found in chunks and changed one by one, each only if it matches then.

A change must not meet its own effects: a record that an update moves along an index would be found there again. So the
records are gone through in the order of their keys, each chunk beginning after the last key of the one before. Where
the key itself changes, in two passes: up the keys for the records that move down or stay, down the keys for those that
move up. With a limit or an offset, the keys to change are read first, in the order asked for.

What a deletion finds protected it passes over, and goes back to while something else goes: the protector may be among
the records of the query, too, or go with one of them. So what is deleted in the end does not depend on the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from copy import deepcopy
from typing import Any

from popoto_async.bulk import each
from popoto_async.changes import Change, Delete, Guarding, Matching, Update
from popoto_async.declaration import unknown_field
from popoto_async.errors import ModelException, ProtectedRecord, StaleRecord, ValidationError
from popoto_async.flight import fly
from popoto_async.plan import ByKey, KeyIs, Place
from popoto_async.planning.read import all_of
from popoto_async.queries.selecting import Found, Selection
from popoto_async.records import database_of, fill, load_by_key
from popoto_async.saving import ADMISSION, delete_in_parts, rewrite, timing
from popoto_async.schema import Schema

CHUNK = 200
"""Records found at once: what one call shows within its budget."""

Chunks = AsyncIterator[list[Found]]
Work = Awaitable[Any]


# Finding -------------------------------------------------------------------------------------------------------------


async def _by_key(selection: Selection, *, descending: bool = False) -> Chunks:
    """All records of a question in the order of their keys, whatever becomes of those that were given already."""
    after: Place | None = None
    while True:
        piece = selection.planned(orders=((ByKey(), descending),), limit=CHUNK, offset=0, after=after)
        found = await piece.found()
        yield found
        if len(found) < CHUNK:
            return
        after = Place(found[-1][0].decode(), (None,), (None,))


async def _of_keys(selection: Selection, keys: list[bytes], *, descending: bool = False) -> Chunks:
    """The records under these keys that still answer the question."""
    schema, plan = selection.schema, selection.plan
    prefix = len(database_of(schema).binding(schema).keys.records)
    for first in range(0, len(keys), CHUNK):
        parts = tuple(key.decode()[prefix:] for key in keys[first : first + CHUNK])
        test = all_of((KeyIs(parts), plan.test))
        yield await selection.planned(test=test, orders=((ByKey(), descending),), limit=None, offset=0).found()


async def _limited(selection: Selection) -> list[bytes] | None:
    """The keys of a question with a limit or an offset, in the order asked for; None for any other."""
    plan = selection.plan
    if plan.limit is None and not plan.offset:
        return None
    return [key for key, _ in await selection.planned(mode="keys", columns=()).found()]


async def _chunks(selection: Selection, keys: list[bytes] | None) -> Chunks:
    """The records of a question, in chunks, each record once; `keys` where it is limited to these."""
    if keys is None:
        async for page in _by_key(selection):
            yield page
    elif selection.plan.mode == "keys":
        yield [(key, []) for key in keys]
    else:
        async for page in _of_keys(selection, keys):
            yield page


def _left(selection: Selection, keys: list[bytes] | None, *, descending: bool) -> Chunks:
    """Those that are left of a question's records."""
    if keys is None:
        return _by_key(selection, descending=descending)
    return _of_keys(selection, sorted(keys, reverse=descending), descending=descending)


# Changing ------------------------------------------------------------------------------------------------------------


class _Changes:
    """The changes of one update or delete: sends them, counts those that were made."""

    def __init__(self, verb: str, selection: Selection) -> None:
        self.verb, self.selection = verb, selection
        self.guarding = Guarding(selection.plan.test)
        self.made = 0
        self.failure: BaseException | None = None
        self.protected: ProtectedRecord | None = None

    def send(self, change: Callable[[float], Change], timeout: float | None) -> Coroutine[Any, Any, bool | None]:
        """One change, as a request to be awaited: whether it was made, None where it has to be sent again."""
        schema = self.selection.schema
        return fly(
            schema.model,
            self.verb,
            database_of(schema),
            ADMISSION,
            timeout,
            self._matching,
            change,
        )

    def _matching(self, now: float, change: Callable[[float], Change]) -> Matching:
        return Matching(change(now), self.guarding, self._count)

    def _count(self) -> None:
        self.made += 1

    async def run(self, chunks: Chunks, make: Callable[[Found], Any], work: Callable[[Any], Work]) -> None:
        """Do the work for each record that `make` makes something of.

        The first failure ends it, after what is under way: raised with a note of what was done. Of those that are
        protected, the first is kept in `protected`.
        """

        async def records() -> AsyncIterator[Any]:
            async for page in chunks:
                for found in page:
                    if self.failure is not None:
                        return
                    record = make(found)
                    if record is not None:
                        yield record

        await each(records(), work, self._note, None)
        self.finish(self.failure)

    def finish(self, failure: BaseException | None) -> None:
        """Raise what it failed for, if anything."""
        if failure is not None:
            failure.add_note(f"{self.made} records had been changed; each is changed whole or not at all")
            raise failure

    def _note(self, record: Any, error: BaseException | None) -> None:
        if isinstance(error, ProtectedRecord):
            self.protected = self.protected or error
        elif error is not None and self.failure is None:
            self.failure = error


async def delete(selection: Selection) -> int:
    """Delete the records of a question; how many there were."""
    schema, model = selection.schema, selection.model
    changes = _Changes("delete", selection)

    def remove(state: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        return changes.send(lambda now: Delete(schema, state), selection.timeout)

    def remove_in_parts(state: dict[str, Any]) -> Coroutine[Any, Any, Any]:
        change = Delete(schema, state)
        return delete_in_parts(schema, selection.timeout, lambda seconds: changes.send(lambda now: change, seconds))

    removing: Callable[[dict[str, Any]], Coroutine[Any, Any, Any]] = remove_in_parts if schema.referrers else remove

    async def remove_with_hooks(instance: Any) -> None:
        await instance.before_delete()
        if await removing(instance.__dict__):
            await instance.after_delete()

    def named(found: Found) -> dict[str, Any]:
        return {"_key": found[0].decode()}

    def filled(found: Found) -> Any:
        return fill(model, found[0].decode(), found[1])

    work: Callable[[Any], Work] = remove_with_hooks
    make, wanted = filled, selection
    if model._plain_delete:
        work, make, wanted = removing, named, selection.planned(mode="keys", columns=())
    keys, before, descending = await _limited(wanted), 0, False
    await changes.run(_chunks(wanted, keys), make, work)
    while changes.protected is not None and changes.made > before:
        # To and fro: a chain of records that follows their keys, up or down, is done in one of the passes.
        before, changes.protected, descending = changes.made, None, not descending
        await changes.run(_left(wanted, keys, descending=descending), make, work)
    changes.finish(changes.protected)
    return changes.made


async def update(selection: Selection, values: Mapping[str, Any]) -> int:
    """Give the records of a question these values; how many there were."""
    schema, model = selection.schema, selection.model
    values = _checked(schema, values)
    changes = _Changes("update", selection)
    # What a hook changes besides is stored too.
    names = frozenset(values) if model._plain else None

    moved: set[bytes] = set()  # keys that records have come to, also by a hook

    def make(found: Found) -> Any:
        return None if found[0] in moved else _given(fill(model, found[0].decode(), found[1]), values)

    def store(instance: Any) -> Coroutine[Any, Any, bool | None]:
        def change(now: float) -> Update:
            return Update(schema, instance.__dict__, now, names=names, if_exists="error", timing=timing(schema))

        return changes.send(change, selection.timeout)

    async def store_with_hooks(instance: Any) -> None:
        while instance is not None:
            await instance.before_save()
            began = asyncio.get_running_loop().time()
            key = instance.__dict__["_key"]
            try:
                if await store(instance):
                    if instance.__dict__["_key"] != key:
                        moved.add(instance.__dict__["_key"].encode())
                    await rewrite(schema, instance.__dict__, selection.timeout, began)
                    await instance.after_save()
            except StaleRecord:  # somebody saved it since it was read
                again = await load_by_key(model, instance.__dict__["_key"], selection.timeout)
                instance = again and _given(again, values)
            else:
                return

    # Whether a change is one request, with nothing before or after it.
    alone = model._plain and not schema.options.versioned and not schema.referrers
    work: Callable[[Any], Work] = store if alone else store_with_hooks
    keys = await _limited(selection)
    if keys is not None or not any(field.name in values for field in schema.keys):
        await changes.run(_chunks(selection, keys), make, work)
    else:
        record_key = database_of(schema).binding(schema).record_key

        def moving(up: bool) -> Callable[[Found], Any]:
            def make_one(found: Found) -> Any:
                instance = make(found)
                return (
                    instance
                    if instance is not None and (record_key(instance.__dict__).encode() > found[0]) is up
                    else None
                )

            return make_one

        await changes.run(_by_key(selection), moving(up=False), work)
        await changes.run(_by_key(selection, descending=True), moving(up=True), work)
    return changes.made


def _given(instance: Any, values: Mapping[str, Any]) -> Any:
    """The instance with these values, containers its own."""
    instance.__dict__.update(deepcopy(dict(values)))
    return instance


def _checked(schema: Schema, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as an assignment would have them. Raises before anything is sent where one can't be stored."""
    if not values:
        raise ValidationError(f"{schema.model}: update() takes values by field name", model=schema.model)
    checked: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for name, value in values.items():
        field = schema.fields.get(name)
        if field is None:
            raise unknown_field(schema.model, name, schema.fields)
        if field.is_key and schema.options.immutable_key:
            raise ModelException(
                f"{schema.model}.{name} is part of the key, which can't be changed (Meta.immutable_key)",
                model=schema.model,
                field=name,
            )
        checked[name] = field.normalise(value)
        if found := field.problems(checked[name]):
            errors[name] = found
    if errors:
        name = next(iter(errors))
        raise ValidationError(
            f"{schema.model}.{name}: {errors[name][0]}",
            errors=errors,
            model=schema.model,
            field=name,
            value=checked[name],
            hint="nothing was sent",
        )
    return checked
