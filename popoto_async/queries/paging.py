"""Pages that stay true while records come and go: each begins after the place of the last row of the one before.

A cursor is text: MessagePack in base64url without padding, `[version, question, key, texts, left]`. `question` is a
digest of what was asked, in which order and how much of it; the place itself is the record's key and the stored texts
it was ordered by. Nothing is kept on the server, and a cursor can do no more than begin a page somewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from popoto_async.errors import InvalidLookup, shorten
from popoto_async.plan import Place, Test
from popoto_async.planning.places import ordering_columns, place
from popoto_async.planning.read import ReadPlan
from popoto_async.queries.selecting import Found, Selection
from popoto_async.schema import Schema

M = TypeVar("M")

VERSION = 1


class Page(msgspec.Struct, Generic[M], frozen=True):
    """Some rows in order, and the cursor of the page after them; None after the last one. Iterates over its rows."""

    rows: list[M]
    cursor: str | None

    def __iter__(self) -> Iterator[M]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class _Cursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    question: bytes
    key: str
    texts: list[bytes | None]
    left: int | None


_cursors = msgspec.msgpack.Decoder(_Cursor)
_versions = msgspec.msgpack.Decoder(list[Any])


async def page(selection: Selection, size: int, cursor: str | None) -> tuple[list[Found], str | None]:
    """The next `size` rows of a question, and where it goes on. One round trip within the budget.

    The rows carry, behind the columns of the plan, the fields they are ordered by.
    """
    schema, plan = selection.schema, selection.plan
    question = _digest(schema, plan)
    left, offset, after = plan.limit, plan.offset, None
    if cursor is not None:
        known = _read(schema, cursor, question)
        left, offset, after = known.left, 0, _place(schema, plan, known)
    wanted = size if left is None else min(size, left)
    more = ordering_columns(plan.orders)
    # One row beyond the page tells whether there is another one.
    beyond = wanted if left is not None and left <= wanted else wanted + 1
    asked = selection.planned(columns=(*plan.columns, *more), offset=offset, limit=beyond, after=after)
    found = await asked.found()
    if len(found) <= wanted:
        return found, None
    key, row = found[wanted - 1]
    texts = dict(zip(more, row[len(plan.columns) :], strict=True))
    here = place(schema, plan.orders, key.decode(), texts.__getitem__)
    following = _Cursor(VERSION, question, here.key, list(here.texts), None if left is None else left - wanted)
    return found[:wanted], _text(following)


def _text(cursor: _Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(cursor)).rstrip(b"=").decode()


def _read(schema: Schema, text: Any, question: bytes) -> _Cursor:
    """What a cursor says. InvalidLookup where it is none, or of another question."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version = _versions.decode(raw)[0]
        found = _cursors.decode(raw) if version == VERSION else None
    except (TypeError, ValueError, LookupError, msgspec.MsgspecError) as error:
        raise _refused(schema, text, "is not one that page() gave", "give page.cursor as it came") from error
    if found is None:
        raise _refused(schema, text, f"is of version {shorten(version)}, not {VERSION}", "begin without a cursor")
    if found.question != question:
        hint = "give it to page() with the same filters, order, limit and offset"
        raise _refused(schema, text, "belongs to another query", hint)
    return found


def _refused(schema: Schema, text: Any, problem: str, hint: str) -> InvalidLookup:
    return InvalidLookup(f"{schema.model}: the cursor {shorten(text)} {problem}", model=schema.model, hint=hint)


def _place(schema: Schema, plan: ReadPlan, cursor: _Cursor) -> Place:
    """The place of a cursor. What it says is decoded, so that the server is given values only."""
    texts = dict(zip(ordering_columns(plan.orders), _distinct(plan, cursor.texts), strict=False))
    try:
        return place(schema, plan.orders, cursor.key, texts.__getitem__)
    except Exception as error:  # whatever a decoder raises, the text is no value
        raise _refused(schema, cursor.key, "holds what is no value", "begin again without a cursor") from error


def _distinct(plan: ReadPlan, texts: list[bytes | None]) -> list[bytes | None]:
    """The texts by column, where one column may serve several orders."""
    names = [getattr(by, "field", None) for by, _ in plan.orders]
    return [text for at, (name, text) in enumerate(zip(names, texts, strict=False)) if name and name not in names[:at]]


def _digest(schema: Schema, plan: ReadPlan) -> bytes:
    asked = repr((schema.options.name, _canonical(plan.test), plan.orders, plan.offset, plan.limit))
    return hashlib.blake2b(asked.encode(), digest_size=8).digest()


def _canonical(test: Test) -> str:
    """A text that is equal in every process for the same conditions, in whichever order they were said."""
    parts = []
    for name in test.__struct_fields__:
        value = getattr(test, name)
        if isinstance(value, Test):
            parts.append(_canonical(value))
        elif name == "children":
            parts.extend(sorted(map(_canonical, value)))
        elif name != "target":  # the model that a relation leads to, which the index tells
            parts.append(repr(value))
    return f"{type(test).__name__}({', '.join(parts)})"
