"""Records by many keys at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from popoto_async.errors import InvalidLookup, shorten
from popoto_async.plan import ByKey, KeyIs
from popoto_async.planning.read import all_of
from popoto_async.queries.selecting import Found, Selection
from popoto_async.records import database_of

CHUNK = 100
"""Keys asked for at once: what one call finds within its budget."""


async def in_bulk(selection: Selection, keys: Iterable[Any]) -> tuple[list[Any], list[Found]]:
    """What was given for each record that there is, and its row, in that order. One round trip for each chunk."""
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__iter__"):
        raise InvalidLookup(
            f"{selection.schema.model}: in_bulk() takes an iterable of keys, not {shorten(keys)}",
            model=selection.schema.model,
        )
    given = list(keys)
    try:
        items = list(dict.fromkeys(given))
    except TypeError as error:
        raise InvalidLookup(
            f"{selection.schema.model}: in_bulk() takes values that can be keys of a dict: {error}",
            model=selection.schema.model,
            value=given,
            hint="give a key of several parts as a tuple",
        ) from error
    records = database_of(selection.schema).binding(selection.schema).keys.records
    parts = [_parts(selection, records, item) for item in items]
    found: dict[str, Found] = {}
    for first in range(0, len(items), CHUNK):
        wanted = KeyIs(tuple(dict.fromkeys(parts[first : first + CHUNK])))
        asked = selection.planned(test=all_of((wanted, selection.plan.test)), orders=((ByKey(), False),))
        found.update({row[0].decode(): row for row in await asked.found()})
    there = [(item, found[records + part]) for item, part in zip(items, parts, strict=True) if records + part in found]
    return [item for item, _ in there], [row for _, row in there]


def _parts(selection: Selection, records: str, item: Any) -> str:
    """What follows the model's name in the key that was given. InvalidLookup where it can be none."""
    schema = selection.schema
    if isinstance(item, str) and item.startswith(records):
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise InvalidLookup(
                f"{schema.model}: {shorten(item)} is no key: {error.reason}", model=schema.model, value=item
            ) from error
        return item[len(records) :]
    values = item if isinstance(item, tuple) else (item,)
    if len(values) != len(schema.keys):
        names = ", ".join(field.name for field in schema.keys)
        raise InvalidLookup(
            f"{schema.model}: {shorten(item)} is no key",
            model=schema.model,
            value=item,
            hint=f"give a redis_key, or values of ({names})",
        )
    return ":".join(field.key_part(value) for field, value in zip(schema.keys, values, strict=True))
