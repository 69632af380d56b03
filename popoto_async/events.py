"""What the entries of a model's stream say: events, and the dead letters of those that nobody could handle. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from popoto_async.errors import CorruptRecord
from popoto_async.keys import ModelKeys
from popoto_async.schema import Schema

FORMAT = "1"
"""The form of the entries (`stream.lua`)."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One write of one record, as the stream of its model tells it.

    `operation` is "create" (all values, whatever stood under the key before), "update" (the changed ones) or "delete".
    `previous_key` is set where an update moved the record; whatever stood under `key` is gone then. `values` holds None
    for what became null; what can't be read as the model declares it now stands in `unreadable`, as bytes. `version` is
    that of the record (`Meta.versioned`).
    """

    id: str
    operation: str
    key: str
    previous_key: str | None = None
    version: str | None = None
    values: Mapping[str, Any] = {}
    unreadable: Mapping[str, bytes] = {}

    @property
    def time(self) -> datetime:
        """When the server did the write, to the millisecond."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)

    @classmethod
    def read(cls, schema: Schema, keys: ModelKeys, entry: list[Any], **more: Any) -> Self:
        """The event of an entry. CorruptRecord where something else stands there."""
        words = dict(_pairs(entry[1]))
        if words.get(b"v") != FORMAT.encode() or b"op" not in words or b"key" not in words:
            raise CorruptRecord(
                f"{schema.model}: the entry {entry[0].decode()} of {keys.stream!r} is no event of format {FORMAT}",
                model=schema.model,
                key=keys.stream,
                hint="something else adds to this stream, or a newer release does",
            )
        values, unreadable = _values(schema, words)
        return cls(
            id=entry[0].decode(),
            operation=words[b"op"].decode(),
            key=words[b"key"].decode(),
            previous_key=_text(words.get(b"from")),
            version=_text(words.get(b"version")),
            values=values,
            unreadable=unreadable,
            **more,
        )


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that a group gave up: how often it was delivered, why, and the event, None where it can't be known.

    `reason` is "delivered too often", "trimmed" (the stream dropped it before it was handled), "unreadable", or what
    `reject()` was given.
    """

    id: str
    event_id: str
    group: str
    deliveries: int
    reason: str
    event: Event | None

    @classmethod
    def read(cls, schema: Schema, keys: ModelKeys, entry: list[Any]) -> Self:
        """The dead letter of an entry."""
        words = dict(_pairs(entry[1]))
        try:
            event = Event.read(schema, keys, [words[b"id"], entry[1]])
        except CorruptRecord:
            event = None
        return cls(
            id=entry[0].decode(),
            event_id=words[b"id"].decode(),
            group=words[b"group"].decode(errors="replace"),
            deliveries=int(words[b"deliveries"]),
            reason=words[b"reason"].decode(errors="replace"),
            event=event,
        )


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode()


def _values(schema: Schema, words: Mapping[bytes, bytes]) -> tuple[dict[str, Any], dict[str, bytes]]:
    values: dict[str, Any] = {}
    unreadable: dict[str, bytes] = {}
    for word, raw in words.items():
        mark, name = word[:1], word[1:].decode(errors="replace")
        if mark == b"-":
            values[name] = None
        elif mark == b"=":
            try:
                values[name] = schema.fields[name].codec.decode(raw)
            except Exception:  # a field that is no more, or whatever a decoder raises: the other values stay readable
                unreadable[name] = raw
    return values, unreadable
