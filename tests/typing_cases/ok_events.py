"""What streams, groups, messages and transactions give."""

from typing import Any, assert_type

from popoto_async import (
    Attr,
    DeadLetter,
    Delivery,
    Event,
    EventGroup,
    EventStream,
    EventStreamMixin,
    KeyField,
    Message,
    Model,
    Publisher,
    Subscriber,
    transaction,
)


class Restaurant(EventStreamMixin, Model):
    _stream_values = "all"
    _stream_max_length = 50

    name: Attr[str] = KeyField()


async def streams() -> None:
    assert_type(Restaurant.events, EventStream)
    assert_type(await Restaurant.events.read(after="0-1", limit=3), list[Event])
    assert_type(await Restaurant.events.dead(), list[DeadLetter])
    async with Restaurant.events.group("mailer", consumer="a", min_idle=3) as events:
        assert_type(events, EventGroup)
        async for event in events:
            assert_type(event, Delivery)
            assert_type(event.previous_key, str | None)
            assert_type(await event.ack(), bool)


async def messages() -> None:
    assert_type(await Publisher("news").publish({"x": 1}), int)
    async with Subscriber("news", patterns=["a.*"], on_gap=lambda: None) as sub:
        assert_type(sub, Subscriber)
        async for message in sub:
            assert_type(message, Message)
            assert_type(message.data, Any)
            assert_type(message.dropped, int)


async def together(one: Restaurant) -> None:
    async with transaction(timeout=1) as tx:
        tx.save(one, if_exists="error")
        tx.increment(one, "n", 5)
        tx.delete(one)
