"""A record's place in an order, as texts: what a page that goes on after it needs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from popoto_async.codec import float_text
from popoto_async.plan import ByKey, OrderBy, Place, Walk
from popoto_async.schema import Schema


def ordering_columns(orders: Sequence[tuple[OrderBy, bool]]) -> tuple[str, ...]:
    """The fields that rows are ordered by."""
    return tuple(dict.fromkeys(by.field for by, _ in orders if not isinstance(by, ByKey)))


def place(
    schema: Schema, orders: Sequence[tuple[OrderBy, bool]], key: str, text_of: Callable[[str], bytes | None]
) -> Place:
    """Where a record with these stored texts stands. CorruptRecord where one of them is no value."""
    texts: list[bytes | None] = []
    scores: list[str | None] = []
    for by, _ in orders:
        text = None if isinstance(by, ByKey) else text_of(by.field)
        texts.append(text)
        scores.append(None)
        if text is not None and not isinstance(by, ByKey):
            field = schema.fields[by.field]
            codec = field.codec
            try:
                value: Any = codec.decode(text)
            except Exception as error:  # whatever it raises, the text is no value
                raise field.corrupt(key, text) from error
            if isinstance(by, Walk) and codec.score is not None:
                scores[-1] = float_text(codec.score(value))
    return Place(key, tuple(texts), tuple(scores))
