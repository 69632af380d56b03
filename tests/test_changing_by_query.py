"""Update and delete by query: who is changed, what is refused, what hooks and others do meanwhile, on both servers.

That the right records are changed, whatever the query and the values are, is held by `test_query_forms.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from popoto_async import (
    CASCADE,
    AlreadyExists,
    Database,
    DatetimeField,
    Field,
    IndexedField,
    KeyField,
    Model,
    ModelException,
    Q,
    Relationship,
    SortedField,
    UniqueField,
    UniqueViolation,
    UnknownField,
    ValidationError,
    trace,
)
from tests.model_of_store import assert_true, snapshot
from tests.servers import Server, count_commands

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")]


class Ticket(Model):
    number: int = KeyField()
    state: str = IndexedField(default="open")
    weight: int = SortedField(default=0)
    code: str | None = UniqueField(null=False)
    tags: Any = Field(type=list)
    changed: datetime = DatetimeField(auto_now=True)


async def tickets(count: int, **values: Any) -> None:
    await Ticket.create_many({"number": i, "weight": i, "code": f"c{i}", **values} for i in range(count))


class Desk(Model):
    room: str = KeyField()
    place: int = KeyField()
    owner: str | None = IndexedField()


async def test_a_query_of_everything(db: Database) -> None:
    await tickets(450)
    assert await Ticket.query.update(state="done") == 450
    assert await Ticket.query.filter(state="done").count() == 450
    assert await Ticket.query.delete() == 450
    assert await Ticket.query.count() == 0
    assert await Ticket.query.delete() == await Ticket.query.update(state="x") == 0


async def test_changes_share_round_trips(db: Database, clean_server: Server) -> None:
    """A call leaves with what was admitted while the one before was under way: at least what one turn admits."""
    await tickets(600)
    with count_commands(clean_server) as counted:
        assert await Ticket.query.filter(state="open").update(weight=5) == 600
    assert counted.round_trips <= 600 / 15
    with count_commands(clean_server) as counted:
        assert await Ticket.query.filter(state="open").delete() == 600
    assert counted.round_trips <= 600 / 15


async def test_a_record_is_not_met_again_by_its_own_change(db: Database) -> None:
    """Each moves up the index it is found by, far beyond the chunk."""
    await tickets(500)
    for _ in range(2):
        assert await Ticket.query.filter(weight__gte=0).order_by("weight").update(weight=1000) == 500


async def test_values_are_checked_before_anything_is_sent(db: Database) -> None:
    await tickets(3)
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({}, ValidationError), ({"nothing": 1}, UnknownField), ({"weight": "5"}, ValidationError),
        ({"state": None, "weight": 1.5}, ValidationError), ({"code": None}, ValidationError),
        ({"weight": float("nan")}, ValidationError), ({"state": "x" * 2000}, ValidationError),
    ]  # fmt: skip
    async with trace() as traced:
        for values, error in wrong:
            with pytest.raises(error):
                await Ticket.query.update(**values)
    assert traced.operations == []
    with pytest.raises(ValidationError) as caught:
        await Ticket.query.update(weight="5", code=None)
    assert set(caught.value.errors) == {"weight", "code"}


async def test_a_unique_conflict_ends_it_and_tells_how_far_it_came(db: Database, clean_server: Server) -> None:
    await tickets(5)
    with pytest.raises(UniqueViolation) as caught:
        await Ticket.query.filter(number__in=[1, 2, 3]).update(code="same", state="done")
    assert any("1 records had been changed" in note for note in caught.value.__notes__)
    assert await Ticket.query.filter(state="done").count() == await Ticket.query.filter(code="same").count() == 1
    assert await Ticket.query.filter(number=4).update(code="own") == 1
    assert_true(clean_server, [Ticket])


async def test_keys_that_change(db: Database, clean_server: Server) -> None:
    """Records move with everything, up and down the keys, and onto nobody."""
    for room, place in (("a", 1), ("b", 2), ("c", 3), ("b:x", 4), ("b", 5)):
        await Desk.create(room=room, place=place, owner="me")
    assert await Desk.query.filter(owner="me").update(room="b") == 5
    assert await Desk.query.keys() == [f"Desk:b:{place}" for place in (1, 2, 3, 4, 5)]
    await Desk.create(room="a", place=3, owner="you")
    with pytest.raises(AlreadyExists):
        await Desk.query.filter(owner="you").update(room="b")
    assert await Desk.query.filter(owner="you").keys() == ["Desk:a:3"]
    assert await Desk.query.filter(room="b").order_by("-place").limit(2).update(room="z", owner=None) == 2
    assert await Desk.query.filter(room="z").keys() == ["Desk:z:4", "Desk:z:5"]
    assert_true(clean_server, [Desk])


class Fixed(Model):
    name: str = KeyField()

    class Meta:
        immutable_key = True


async def test_an_immutable_key_is_refused_at_once(db: Database) -> None:
    async with trace() as traced:
        with pytest.raises(ModelException, match="immutable_key"):
            await Fixed.query.update(name="x")
    assert traced.operations == []


class Hooked(Model):
    name: str = KeyField()
    state: str = IndexedField(default="open")
    slug: str | None = IndexedField()
    tags: Any = Field(type=list)

    class Meta:
        versioned = True

    async def before_save(self) -> None:
        self.slug = f"{self.name}-{self.state}"
        if self.tags is not None:
            self.tags.append(self.name)
        await say("before", self)

    async def after_save(self) -> None:
        await say("after", self)

    async def before_delete(self) -> None:
        await say("before delete", self)

    async def after_delete(self) -> None:
        await say("after delete", self)


heard: list[tuple[str, str]] = []
reactions: dict[tuple[str, str], Any] = {}


async def say(what: str, instance: Hooked) -> None:
    heard.append((what, instance.name))
    reaction = reactions.pop((what, instance.name), None)
    if reaction is not None:
        await reaction()


async def hooked() -> None:
    reactions.clear()
    for name in "abc":
        await Hooked.create(name=name)
    heard.clear()


async def test_hooks_are_called_and_what_they_change_is_stored(db: Database) -> None:
    await hooked()
    assert await Hooked.query.filter(name__in=["a", "b"]).update(state="done", tags=["x"]) == 2
    assert sorted(heard) == [("after", "a"), ("after", "b"), ("before", "a"), ("before", "b")]
    assert [(one.slug, one.tags) for one in await Hooked.query.filter(state="done")] == [
        ("a-done", ["x", "a"]), ("b-done", ["x", "b"])
    ]  # fmt: skip
    heard.clear()
    assert await Hooked.query.exclude(state="open").delete() == 2
    assert sorted(heard) == [(what, name) for what in ("after delete", "before delete") for name in "ab"]


async def test_a_hook_that_raises_ends_it_with_a_note(db: Database) -> None:
    await hooked()

    async def fail() -> None:
        raise KeyError("no PopotoError")

    for hook, change in (("before", Hooked.query.update(state="done")), ("before delete", Hooked.query.delete())):
        reactions[hook, "b"] = fail
        with pytest.raises(KeyError) as caught:
            await change
        assert "2 records had been changed" in caught.value.__notes__[0]
    assert await Hooked.query.keys() == ["Hooked:b"]


async def test_a_record_that_stops_matching_is_left_alone(db: Database) -> None:
    """Its own moment decides: neither changed nor counted, though it was found."""
    await hooked()

    async def closed() -> None:
        one: Any = await Hooked.load(name="c")
        one.state = "closed"
        await one.save()

    async def gone() -> None:
        one: Any = await Hooked.load(name="b")
        await one.delete()

    reactions.update({("before", "c"): closed, ("before", "b"): gone})
    assert await Hooked.query.filter(state="open").update(state="done") == 1
    assert {one.name: one.state for one in await Hooked.query} == {"a": "done", "c": "closed"}
    reactions["before delete", "c"] = lambda: Hooked.query.filter(name="c").update(state="done")
    await Hooked.create(name="d", state="new")
    heard.clear()
    assert await Hooked.query.filter(Q(state="new") | Q(state="closed") | Q(name="a")).delete() == 2
    assert await Hooked.query.keys() == ["Hooked:c"]
    assert ("after delete", "c") not in heard


class Signpost(Model):
    name: str = KeyField()
    state: str = IndexedField(default="open")
    weight: Decimal = SortedField(default=Decimal(0))
    leads = Relationship("self", on_delete="DO_NOTHING")


async def test_a_change_sees_what_those_before_it_in_its_call_have_done(db: Database, clean_server: Server) -> None:
    """The condition travels once, and what was looked up for one record is looked up again for the next."""
    for name, leads in (("a", "Signpost:b"), ("b", "Signpost:x"), ("c", "Signpost:b"), ("x", None)):
        await Signpost.create(name=name, leads=leads)
    with count_commands(clean_server) as counted:
        assert await Signpost.query.filter(leads__state="open").update(state="done") == 2
    assert counted.round_trips == 2
    assert await Signpost.query.filter(state="done").keys() == ["Signpost:a", "Signpost:b"]


async def test_a_condition_travels_once_for_all_changes_of_a_call(db: Database, clean_server: Server) -> None:
    await tickets(40)
    query = Ticket.query.filter(Q(state__in=[*map(str, range(1000)), "open"]) | Q(tags=["x" * 30_000]))

    async def sent(asking: Awaitable[Any]) -> int:
        before = clean_server.client.info("stats")["total_net_input_bytes"]
        await asking
        return int(clean_server.client.info("stats")["total_net_input_bytes"]) - before

    once = await sent(query.keys())
    assert await sent(query.update(weight=7)) < 3 * once
    assert await Ticket.query.filter(weight=7).count() == 40


async def test_another_save_meanwhile_is_not_undone(db: Database) -> None:
    """Versions: the record is read again, its hooks run on what is stored now."""
    await hooked()

    async def somebody_saves() -> None:
        one: Any = await Hooked.load(name="a")
        one.tags = ["theirs"]
        await one.save(update_fields=["tags"])

    reactions["before", "a"] = somebody_saves
    assert await Hooked.query.filter(name="a").update(state="done") == 1
    one: Any = await Hooked.load(name="a")
    assert (one.state, "theirs" in one.tags) == ("done", True)


class Team(Model):
    name: str = KeyField()
    city: str | None = IndexedField()


class Player(Model):
    number: int = KeyField()
    team = Relationship(Team, on_delete=CASCADE, null=True)


async def test_references_follow_and_cascade(db: Database, clean_server: Server) -> None:
    """Also where so many refer to a record that it takes several calls."""
    teams = [await Team.create(name=name, city=city) for name, city in (("a", "x"), ("b", "y"), ("c", "x"))]
    await Player.create_many({"number": i, "team": teams[i % 3]} for i in range(1500))
    assert await Team.query.filter(city="y").update(name="z") == 1
    assert await Player.query.filter(team="Team:z").count() == await Player.query.filter(team__city="y").count() == 500
    assert await Team.query.filter(city="x").delete() == 2
    assert await Player.query.count() == 500
    assert await Player.query.filter(team__city="y", number__in=[1, 4]).delete() == 2
    assert await Player.query.count() == 498


class Link(Model):
    name: str = KeyField()
    up = Relationship("self", on_delete=CASCADE)
    size: int = SortedField(default=1)


@pytest.mark.parametrize("others", [50, 500])
async def test_a_deletion_that_has_begun_is_finished(db: Database, clean_server: Server, others: int) -> None:
    """The record matches by what its own deletion takes away first, in one call or in several."""
    await Link.create(name="top", up="Link:0")
    await Link.create_many({"name": str(i), "up": "Link:top"} for i in range(others))
    assert await Link.query.filter(name="top", up__size=1).delete() == 1
    assert await Link.query.count() == 0
    assert_true(clean_server, [Link], {})


async def test_what_goes_along_is_not_counted(db: Database, clean_server: Server) -> None:
    for name, up in (("a", None), ("b", "Link:a"), ("c", None)):
        await Link.create(name=name, up=up)
    assert await Link.query.delete() == 2
    assert_true(clean_server, [Link], {})


async def test_stamps_deadlines_and_nulls(db: Database, clean_server: Server) -> None:
    await tickets(2)
    before = [one.changed for one in await Ticket.query]
    assert await Ticket.query.update(tags=["a", {"b": 1}]) == 2
    after = [one.changed for one in await Ticket.query]
    assert all(later > earlier for earlier, later in zip(before, after, strict=True))
    assert await Ticket.query.filter(number=1).update(tags=None) == 1
    assert [one.tags for one in await Ticket.query.order_by("number")] == [["a", {"b": 1}], None]
    one: Any = await Ticket.load(number=0)
    await one.expire_in(1000)
    assert await Ticket.query.update(state="done") == 2
    assert clean_server.client.ttl("Ticket:0") > 0


async def test_what_cannot_be_written_changes_nothing(db: Database, clean_server: Server) -> None:
    """A foreign value where an index should be: the error names it, the records stay whole."""
    await tickets(3)
    clean_server.client.set("$Index:Ticket:state:done", "foreign")
    before = snapshot(clean_server)
    with pytest.raises(Exception, match="foreign") as caught:
        await Ticket.query.update(state="done")
    assert any("0 records" in note for note in caught.value.__notes__)
    assert snapshot(clean_server) == before


async def test_records_that_a_hook_moves_are_changed_once(db: Database) -> None:
    class Seat(Model):
        name = KeyField()
        row = Field()
        number = Field(type=int)
        saves = Field(type=int, default=0)

        async def before_save(self) -> None:
            self.name, self.saves = f"{self.row}-{self.number:04}", self.saves + 1

    await Seat.create_many({"name": "", "row": "a", "number": number} for number in range(500))
    assert await Seat.query.update(row="z") == 500
    assert {seat.saves for seat in await Seat.query} == {2}
