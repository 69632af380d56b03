"""A kind of field of a user's own: one class that overrides what a value means, and nothing else anywhere."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import pytest

from popoto_async import Database, Field, InvalidLookup, KeyField, Model, ValidationError, transaction
from popoto_async.codec import Codec
from popoto_async.plan import MEMBER, AllOf, AnyOf, Entry, Index, Range, Test
from popoto_async.types import Row
from tests.model_of_store import snapshot
from tests.servers import Server, count_commands

pytestmark = pytest.mark.anyio


class WordsField(Field[str]):
    """A text found by its words (in lower case) and by how many it has."""

    lookups = ("eq", "in", "isnull", "word", "more_than")

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        super().connect(fields)
        self._words, self._count = f"Word:{self.name}", f"Words:{self.name}"

    def problems(self, value: Any) -> list[str]:
        found = super().problems(value)
        return found or (["must have a word"] if value is not None and not value.split() else [])

    def checked(self, value: Any) -> bytes | None:
        return None if self.problems(value) else self.codec.encode(value)

    def indexes(self) -> tuple[Index, ...]:
        return (
            Index(self._words, MEMBER, (self.name,), tailed=True),
            Index(self._count, MEMBER, (self.name,), tailed=False),
        )

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        words = (value or "").lower().split()
        return (
            *(Entry(self._words, self.part(word)) for word in sorted(set(words))),
            Entry(self._count, "", str(len(words))),
        )

    def tests(self, lookups: Mapping[str, Any], tail: str) -> Test:
        found: list[Test] = []
        for lookup, value in lookups.items():
            if lookup == "word":
                found.append(AnyOf(self._words, (self.part(self.comparable(lookup, value).lower()),)))
            elif lookup == "more_than":
                if not isinstance(value, int):
                    raise self.invalid(lookup, value, "takes an int")
                found.append(Range(self._count, "", f"({value}", "+inf"))
            else:
                found.append(self.test(lookup, value, tail))
        return AllOf(tuple(found))


class Note(Model):
    name = KeyField()
    text = WordsField()
    size = Field(type=int, default=0)


async def test_its_entries_follow_the_record_and_its_lookups_are_answered(db: Database, clean_server: Server) -> None:
    async def found(**lookups: Any) -> list[str]:
        return await Note.query.filter(**lookups).keys()

    one = await Note.create(name="a", text="The quick fox: a fox")
    await Note.create(name="b", text="quick")
    await Note.create(name="c")
    await Note.query.count()  # the server knows the script then
    with count_commands(clean_server) as counted:
        assert await found(text__word="QUICK") == ["Note:a", "Note:b"]
    assert counted.round_trips == 1
    assert await found(text__word="fox:") == ["Note:a"]
    assert await found(text__more_than=0) == ["Note:a", "Note:b"]
    assert await found(text__word="quick", text__more_than=1) == ["Note:a"]
    assert await Note.query.filter(text__more_than=-1).count() == 3
    one.text, one.name = "slow", "d"
    await one.save()
    assert await found(text__word="quick") == ["Note:b"]
    assert await found(text__word="slow") == ["Note:d"]
    async with transaction() as tx:
        for name in ("b", "c", "d"):
            tx.delete(Note(name=name))
    assert set(snapshot(clean_server)) == {b"$Slots:Note"}


async def test_what_it_refuses(db: Database, clean_server: Server) -> None:
    with pytest.raises(ValidationError, match=r"Note\.text: must have a word"):
        await Note.create(name="a", text="  ")
    for wrong in ({"text__more_than": "x"}, {"text__word": 5}, {"text__wort": "x"}, {"text__gt": "x"}):
        with pytest.raises(InvalidLookup):
            Note.query.filter(**wrong)
    assert snapshot(clean_server) == {}


# The context of who waits --------------------------------------------------------------------------------------------

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
asked: Counter[str] = Counter()


def seal(text: str) -> bytes:
    return f"{tenant.get()} {text}".encode()


def unseal(raw: bytes) -> str:
    owner, _, text = raw.decode().partition(" ")
    asked[tenant.get()] += 1
    if owner != tenant.get():
        raise ValueError(f"sealed for {owner}")
    return text


class Sealed(Field[str]):
    """A text that only its tenant can read."""

    def _codec(self) -> Codec:
        return Codec(str, seal, unseal)


class Letter(Model):
    number = KeyField(type=int)
    owner = Field(type=str, default=tenant.get)
    text = Sealed(type=str)


async def test_what_people_wrote_runs_in_the_context_of_who_waits(db: Database) -> None:
    """Of a thousand at once of each of two tenants most are planned and answered in turns that others began."""

    async def work(name: str, numbers: range) -> list[tuple[str, str]]:
        tenant.set(name)
        await asyncio.gather(*(Letter.create(number=n, text=f"of {name}") for n in numbers))
        found = await asyncio.gather(*(Letter.load(number=n) for n in numbers))
        return [(letter.owner, letter.text) for letter in found]

    asked.clear()
    first, second = await asyncio.gather(work("a", range(1000)), work("b", range(1000, 2000)))
    assert first == [("a", "of a")] * 1000
    assert second == [("b", "of b")] * 1000
    assert asked == {"a": 1000, "b": 1000}
