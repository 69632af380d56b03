"""Models whose writes can be followed: `EventStreamMixin`, and the stream that `Restaurant.events` gives."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from popoto_async.errors import DefinitionError, ValidationError, shorten
from popoto_async.events import DeadLetter, Event
from popoto_async.groups import EventGroup
from popoto_async.pending import verb
from popoto_async.records import database_of
from popoto_async.schema import Schema

_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")
"""What `Event.id` looks like."""


class EventStream:
    """The events of a model, oldest first, as far back as its stream reaches."""

    def __init__(self, model: type[Any]) -> None:
        schema: Schema | None = getattr(model, "_meta", None)
        if schema is None or schema.options.events is None:
            raise DefinitionError(
                f"{model.__name__} has no stream of events",
                model=model.__name__,
                hint=f"class {model.__name__}(EventStreamMixin, Model)",
            )
        self._schema = schema

    @property
    def _written(self) -> str:
        return f"{self._schema.model}.events"

    @property
    def key(self) -> str:
        """Where the stream stands."""
        return database_of(self._schema).binding(self._schema).keys.stream

    @verb
    async def length(self) -> int:
        """The number of events there are. One round trip."""
        return int(await database_of(self._schema).execute("XLEN", self.key))

    @verb
    async def read(self, *, after: str | None = None, limit: int = 100) -> list[Event]:
        """The events after the one of this id, from the first where None, `limit` at most. One round trip."""
        keys = database_of(self._schema).binding(self._schema).keys
        return [Event.read(self._schema, keys, entry) for entry in await self._entries(keys.stream, after, limit)]

    @verb
    async def dead(self, *, after: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """The dead letters of all groups, oldest first. One round trip."""
        keys = database_of(self._schema).binding(self._schema).keys
        entries = await self._entries(keys.dead_letters, after, limit)
        return [DeadLetter.read(self._schema, keys, entry) for entry in entries]

    def group(
        self,
        name: str,
        *,
        consumer: str,
        start: str = "0",
        batch: int = 10,
        min_idle: float = 60.0,
        max_deliveries: int = 5,
        patience: float | None = None,
    ) -> EventGroup:
        """A consumer of the group `name`: each event goes to one consumer of each group.

        `consumer` is a name that no other living consumer of the group has. `start` is where a group that does not
        exist yet begins: "0" with every event there is, "$" with those to come. Up to `batch` events are fetched at
        once. An event not acknowledged within `min_idle` seconds is given to whoever asks, and to the dead letters
        after `max_deliveries` deliveries. A lost server is looked for during `patience` seconds, or for ever.
        """
        return EventGroup(
            self._schema,
            name,
            consumer,
            start=start,
            batch=batch,
            min_idle=min_idle,
            max_deliveries=max_deliveries,
            patience=patience,
        )

    async def _entries(self, key: str, after: Any, limit: Any) -> list[Any]:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValidationError(f"limit is a positive number, not {shorten(limit)}", model=self._schema.model)
        if after is not None and not (isinstance(after, str) and _ID.fullmatch(after)):
            raise ValidationError(
                f"after is the id of an event, not {shorten(after)}", model=self._schema.model, value=after
            )
        first = "-" if after is None else f"({after}"
        entries: list[Any] = await database_of(self._schema).execute("XRANGE", key, first, "+", "COUNT", limit)
        return entries


class _Events:
    """`Restaurant.events`."""

    def __get__(self, instance: object, owner: type[Any]) -> EventStream:
        return EventStream(owner)


class EventStreamMixin:
    """For a model whose writes are to be followed: every create, update and delete adds an entry to its stream.

    The entry is added by the script that does the write: there is no write without its event, and no event without its
    write. `_stream_values` says what an entry holds of the record: the "changed" values, "all" of them, or "none";
    `_stream_max_length` how many entries the stream keeps, about: old ones are dropped in blocks.
    """

    _stream_max_length: ClassVar[int] = 10_000
    _stream_values: ClassVar[str] = "changed"

    events: ClassVar[_Events] = _Events()
