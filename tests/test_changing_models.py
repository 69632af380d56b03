"""Classes that change while records exist: what is read, what raises, what `rebuild` makes of it, and no byte lost."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from popoto_async import (
    CorruptRecord,
    Database,
    Field,
    IndexedField,
    IndexNotBuilt,
    KeyField,
    Model,
    Relationship,
    SortedField,
    StaleRecord,
    UniqueField,
    ValidationError,
    connect,
    maintenance,
    trace,
    using,
)
from popoto_async.maintenance.survey import Survey
from tests.model_of_store import assert_true, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio


def _items() -> Any:
    """Two classes of one name, which only functions may declare."""

    class Old(Model):
        name: str = KeyField()
        kind: str | None = Field()
        size: str | None = Field()
        rank: float = SortedField(default=1.0)

        class Meta:
            name = "Item"

    class New(Model):
        """The same records later: two more indexes, one fewer."""

        name: str = KeyField()
        kind: str | None = IndexedField()
        size: str | None = Field()
        rank: float = Field(default=1.0)
        level: int | None = SortedField(null=True, partition_by="kind")

        class Meta:
            name = "Item"

    return Old, New


Old, New = _items()


async def fill(count: int = 5) -> None:
    await Old.create_many({"name": f"i{n}", "kind": "ab"[n % 2], "rank": n} for n in range(count))


async def test_a_new_index_raises_until_it_is_rebuilt(db: Database, clean_server: Server) -> None:
    await fill()
    forms: list[Any] = [
        lambda: New.query.filter(kind="a"), lambda: New.query.filter(kind="a").count(), lambda: New.exists(kind="a"),
        lambda: New.query.filter(kind="a", level__gte=1), lambda: New.query.filter(kind="a").order_by("level").first(),
        lambda: New.query.filter(name="i0", kind="a").keys(),
    ]  # fmt: skip
    for _ in range(2):
        for form in forms:
            with pytest.raises(IndexNotBuilt, match="does not hold every record") as caught:
                await form()
            assert (caught.value.model, caught.value.field) in {("New", "kind"), ("New", "level")}
        assert [one.name for one in await New.query.filter(name="i0")] == ["i0"]
        assert await New.query.count() == 5
        await New.create(name="new", kind="a", level=3)  # registers the indexes, and stands in them
        await New(name="new").delete()
    report = await maintenance.check(New)
    assert (report.clean, report.total, report.models[0].unbuilt) == (
        False,
        0,
        ("Index:kind", "Null:level", "Sort:level", "Tie:level", "Val:kind"),
    )
    dry = await maintenance.rebuild(New, dry_run=True)
    assert dry.models[0].unbuilt
    report = await maintenance.rebuild(New)
    assert (report.left, report.models[0].unbuilt) == (0, ())
    assert [one.name for one in await New.query.filter(kind="a")] == ["i0", "i2", "i4"]
    assert await New.query.filter(kind="b", level=None).count() == 2
    assert (await maintenance.check(New)).clean
    keys = snapshot(clean_server)
    assert b"$Sort:Item:rank" not in keys, "an index that the class does not declare any more is gone"
    assert keys[b"$Index:Item:kind:b"] == [(b"Item:i1", 0.0), (b"Item:i3", 0.0)]


async def test_a_class_without_records_needs_no_rebuild(db: Database) -> None:
    assert await New.query.filter(kind="a").count() == 0
    await fill(1)
    await Old(name="i0").delete()
    assert await New.query.filter(kind="a").count() == 0


async def test_an_ordinary_query_stays_one_round_trip(db: Database, clean_server: Server) -> None:
    await New.create(name="x", kind="a")
    async with connect(clean_server.url) as other:
        with using(other):
            await New.query.count()
            async with trace() as seen:
                assert await New.query.filter(kind="a").order_by("level").count() == 1
    assert seen.round_trips == 1


async def test_a_writer_that_does_not_know_an_index_makes_it_unbuilt(db: Database, clean_server: Server) -> None:
    """Also after it was rebuilt: what such a writer stores is not in it."""
    await fill()
    await maintenance.rebuild(New)
    assert await New.query.filter(kind="a").count() == 3
    assert len(await Old.query.filter(name="i0")) == 1
    with pytest.raises(IndexNotBuilt):
        await Old.query.filter(rank__gte=0)
    assert await New.query.filter(kind="a").count() == 3, "reading changes nothing"
    await Old.create(name="late", kind="a")
    with pytest.raises(IndexNotBuilt):
        await New.query.filter(kind="a").count()
    await maintenance.rebuild(New)
    assert await New.query.filter(kind="a").count() == 4
    await maintenance.rebuild(Old)
    assert await Old.query.filter(rank__gte=0).count() == 6
    with pytest.raises(IndexNotBuilt):
        await New.query.filter(kind="a").count()


async def test_a_writer_that_comes_between_keeps_a_rebuild_from_saying_done(db: Database, clean_server: Server) -> None:
    await fill()

    async def meddle(done: int, total: int) -> None:
        await Old.create(name=f"meddled{done}", kind="a")

    report = await maintenance.rebuild(New, progress=meddle)
    assert report.models[0].unbuilt
    with pytest.raises(IndexNotBuilt):
        await New.query.filter(kind="a").count()
    report = await maintenance.rebuild(New)
    assert report.models[0].unbuilt == ()
    assert await New.query.filter(kind="a").count() == await New.query.count() - 2


async def test_of_two_rebuilds_the_later_one_counts(db: Database) -> None:
    await fill()

    async def again(done: int, total: int) -> None:
        if done == 0:
            inner.append(await maintenance.rebuild(New))

    inner: list[Any] = []
    report = await maintenance.rebuild(New, progress=again)
    assert [one.models[0].unbuilt for one in (*inner, report)] == [(), ()]
    assert await New.query.filter(kind="a").count() == 3


async def test_a_record_that_moves_during_a_rebuild_takes_its_place(db: Database) -> None:
    """A rebuild goes through the keys and may miss it."""
    await fill()
    survey = Survey(New, dry=False, anew=True, renamed={}, progress=None)
    await survey.current()
    await survey._mark(over=False)
    record = await New.load(name="i0")
    assert record is not None
    record.name = "moved"
    await record.save()
    await survey._mark(over=True)
    assert await New.query.filter(kind="a").keys() == ["Item:moved"]


@pytest.fixture
def always_changing(monkeypatch: pytest.MonkeyPatch, clean_server: Server) -> pytest.MonkeyPatch:
    """Somebody changes a record each time between the look at it and its repair."""
    send, turns = Survey._send, count()

    async def meddle(self: Survey, name: str, plan: Any) -> Any:
        if name == "mend":
            clean_server.client.hset("Item:i0", "size", f"s{next(turns)}")
        return await send(self, name, plan)

    monkeypatch.setattr(Survey, "_send", meddle)
    return monkeypatch


async def test_a_record_that_always_changes_is_left_to_the_next_run(
    db: Database, clean_server: Server, always_changing: pytest.MonkeyPatch
) -> None:
    """And until then the index is not said to hold every record."""
    await fill()
    report = await maintenance.rebuild(New)
    assert report.models[0].busy == 1
    assert "Index:kind" in report.models[0].unbuilt
    assert not clean_server.client.zscore("$Index:Item:kind:a", "Item:i0")
    with pytest.raises(IndexNotBuilt):
        await New.query.filter(kind="a")
    always_changing.undo()
    report = await maintenance.rebuild(New)
    assert (report.models[0].busy, report.models[0].unbuilt) == (0, ())
    assert await New.query.filter(kind="a").count() == 3


async def test_queries_are_right_while_a_rebuild_runs(db: Database) -> None:
    await New.create_many({"name": f"i{n}", "kind": "ab"[n % 2], "level": n} for n in range(400))
    found: list[int] = []

    async def look(done: int, total: int) -> None:
        found.append(await New.query.filter(kind="a", level__gte=0).count())

    await maintenance.rebuild(New, progress=look)
    assert set(found) == {200}


def _kinds() -> Any:
    """Two classes of one name, which only functions may declare."""

    class Texts(Model):
        name: str = KeyField()
        code: str | None = IndexedField()
        part: str | None = Field()
        other: str | None = Field()
        rank: float = SortedField(default=1.0, partition_by="part")

        class Meta:
            name = "Kind"

    class Numbers(Model):
        name: str = KeyField()
        code: Decimal | None = IndexedField()
        part: str | None = Field()
        other: str | None = Field()
        rank: float = SortedField(default=1.0, partition_by="other")

        class Meta:
            name = "Kind"

    return Texts, Numbers


Texts, Numbers = _kinds()


async def test_another_type_and_another_partition(db: Database, clean_server: Server) -> None:
    """The keys of the indexes stay the same, and what stands in them means something else."""
    await Texts.create(name="a", code="1.10", part="x", other="y", rank=1)
    await Texts.create(name="b", code="many", part="x", other="z", rank=2)
    for query in (Numbers.query.filter(code=Decimal(1)), Numbers.query.filter(other="y", rank__gte=0)):
        with pytest.raises(IndexNotBuilt):
            await query
    record = await Numbers.load(name="b")
    assert record is not None
    assert (record.rank, record.other) == (2.0, "z")
    with pytest.raises(CorruptRecord, match="code") as caught:
        _ = record.code
    assert (caught.value.key, caught.value.field, caught.value.value) == ("Kind:b", "code", b"many")
    report = await maintenance.rebuild(Numbers)
    assert [(one.kind, one.key, one.other) for one in report.models[0].damage if not one.repairable] == [
        ("unreadable", "Kind:b", "code")
    ]
    assert await Numbers.query.filter(code=Decimal("1.1")).keys() == ["Kind:a"]
    assert await Numbers.query.filter(other="y", rank__gte=0).keys() == ["Kind:a"]
    found = snapshot(clean_server)
    assert {key for key in found if key.startswith(b"$Index:")} == {b"$Index:Kind:code:1.1"}
    assert {key for key in found if key.startswith(b"$Sort:")} == {b"$Sort:Kind:rank:y", b"$Sort:Kind:rank:z"}
    assert found[b"Kind:b"][b"code"] == b"many"  # type: ignore[index]  # a hash
    assert (await maintenance.check(Numbers)).total == 1


async def test_a_field_that_is_renamed(db: Database, clean_server: Server) -> None:
    class Before(Model):
        name: str = KeyField()
        colour: str | None = IndexedField()

        class Meta:
            name = "Thing"

    class After(Model):
        name: str = KeyField()
        color: str | None = IndexedField()

        class Meta:
            name = "Thing"

    await Before.create(name="a", colour="red")
    await Before.create(name="b")
    await Before.create(name="c", colour="blue")
    await After(name="c", color="green").save(if_exists="overwrite")
    await Before.create(name="d", colour="old")
    both = await After.load(name="d")
    assert both is not None
    both.color = "new"
    await both.save()
    before = snapshot(clean_server)
    assert clean_server.client.hmget("Thing:d", "colour", "color") == [b"old", b"new"]
    assert (await maintenance.rebuild(After, renamed={"colour": "color"}, dry_run=True)).models[0].found["name"] == 2
    assert snapshot(clean_server) == before
    report = await maintenance.rebuild(After, renamed={"colour": "color"})
    assert (report.left, report.models[0].unbuilt) == (0, ())
    rows = {one.name: one.color async for one in After.query}
    assert rows == {"a": "red", "b": None, "c": "green", "d": "new"}
    assert await After.query.filter(color="red").keys() == ["Thing:a"]
    assert b"colour" not in snapshot(clean_server)[b"Thing:a"]  # type: ignore[operator]  # a hash
    assert (await maintenance.rebuild(After, renamed={"colour": "color"})).total == 0
    for renamed in ({"color": "colour"}, {"name": "color"}, {"$": "color"}):
        with pytest.raises(ValidationError):
            await maintenance.rebuild(After, renamed=renamed)


async def test_a_new_unique_field_over_values_that_repeat(db: Database) -> None:
    class Before(Model):
        name: str = KeyField()
        email: str | None = Field()

        class Meta:
            name = "Person"

    class After(Model):
        name: str = KeyField()
        email: str = UniqueField()

        class Meta:
            name = "Person"

    for name, email in (("a", "x"), ("b", "x"), ("c", None), ("d", None)):
        await Before.create(name=name, email=email)
    for form in (lambda: After.query.filter(email="x").exists(), lambda: After.get_or_create({"name": "q"}, email="x")):
        with pytest.raises(IndexNotBuilt):
            await form()
    report = await maintenance.rebuild(After)
    (damage,) = [one for one in report.models[0].damage if one.kind == "duplicate"]
    assert {damage.key, damage.other} == {"Person:a", "Person:b"}
    assert (report.left, report.models[0].unbuilt) == (1, ("Uniq:email",))
    with pytest.raises(IndexNotBuilt):
        await After.query.filter(email="x").exists()
    other = await After.load(name="b")
    assert other is not None
    other.email = "y"
    await other.save()
    report = await maintenance.rebuild(After)
    assert (report.left, report.models[0].unbuilt) == (0, ())
    assert await After.query.filter(email="x").keys() == ["Person:a"]
    found, created = await After.get_or_create({"name": "q"}, email="y")
    assert (found.name, created) == ("b", False)


async def test_a_condition_through_a_relation_relies_on_the_other_models_indexes(db: Database) -> None:
    class OldHouse(Model):
        name: str = KeyField()
        kind: str | None = Field()

        class Meta:
            name = "House"

    class House(Model):
        name: str = KeyField()
        kind: str | None = IndexedField()

        class Meta:
            name = "House"

    class Room(Model):
        name: str = KeyField()
        house = Relationship(House)

    await OldHouse.create(name="h", kind="inn")
    await Room.create(name="r", house=House.ref(name="h"))
    with pytest.raises(IndexNotBuilt, match="Index:kind"):
        await Room.query.filter(house__kind="inn")
    await maintenance.rebuild(House)
    assert await Room.query.filter(house__kind="inn").keys() == ["Room:r"]
    assert (await maintenance.check(House, Room)).clean


async def test_new_fields_and_removed_ones(db: Database, clean_server: Server) -> None:
    """A new field reads as null, one that is gone stays stored until the record is stored anew."""

    class Before(Model):
        name: str = KeyField()
        gone: str = Field(default="g")

        class Meta:
            name = "Doc"

    class After(Model):
        name: str = KeyField()
        new: int = SortedField(default=7)

        class Meta:
            name = "Doc"

    await Before.create(name="a")
    await maintenance.rebuild(After)
    record = await After.load(name="a")
    assert record is not None
    assert record.new is None
    assert await After.query.filter(new__gte=0).count() == 0
    with pytest.raises(ValidationError, match="must not be null"):
        await record.save()
    record.new = 5
    await record.save()
    assert await After.query.filter(new=5).count() == 1
    assert clean_server.client.hget("Doc:a", "gone") == b"g"
    assert (await maintenance.check(After)).clean


async def test_a_list_of_suffixes_that_is_added(db: Database, clean_server: Server) -> None:
    """It is a listing of its own; who does not declare it keeps it up all the same."""

    class Before(Model):
        name: str = KeyField()
        kind: str | None = IndexedField()

        class Meta:
            name = "Word"

    class After(Model):
        name: str = KeyField()
        kind: str | None = IndexedField(suffixes=True)

        class Meta:
            name = "Word"

    await Before.create(name="a", kind="ab")
    with pytest.raises(IndexNotBuilt, match="Rev:kind"):
        await After.query.filter(kind__endswith="b")
    assert await After.query.filter(kind="ab").count() == 1
    await maintenance.rebuild(After)
    await Before.create(name="b", kind="cb")
    assert await After.query.filter(kind__endswith="b").count() == 2
    assert_true(clean_server, [After])


async def test_a_field_of_the_key_that_is_added(db: Database) -> None:
    class Before(Model):
        name: str = KeyField()

        class Meta:
            name = "Pair"

    class After(Model):
        name: str = KeyField()
        side: str | None = KeyField()

        class Meta:
            name = "Pair"

    await Before.create(name="a")
    report = await maintenance.rebuild(After)
    assert [(one.kind, one.key, one.other) for one in report.models[0].damage if not one.repairable] == [
        ("misplaced", "Pair:a", "Pair:a:%null")
    ]


# Bytes that can't be read --------------------------------------------------------------------------------------------


class Doc(Model):
    name: str = KeyField()
    group: str | None = IndexedField()
    size: int | None = SortedField(null=True, partition_by="group")
    data: dict[str, int] | None = Field(type=dict)


async def _spoilt(server: Server) -> Doc:
    await Doc.create(name="a", group="g", size=3, data={"x": 1})
    server.client.hset("Doc:a", mapping={"size": b"big\xff", "data": b"\xc1"})
    record = await Doc.load(name="a")
    assert record is not None
    return record


def _assert_kept(server: Server, key: str = "Doc:a") -> None:
    assert server.client.hmget(key, "size", "data") == [b"big\xff", b"\xc1"]


async def test_no_save_destroys_what_can_not_be_read(db: Database, clean_server: Server) -> None:
    record = await _spoilt(clean_server)
    assert (record.name, record.group) == ("a", "g")
    for turn in range(2):
        record.group = f"h{turn}"
        await record.save()
        _assert_kept(clean_server)
        record.group = f"g{turn}"
        await record.save(update_fields=["group"])
        _assert_kept(clean_server)
        for name in ("size", "data"):
            with pytest.raises(CorruptRecord, match=name) as caught:
                getattr(record, name)
            assert (caught.value.key, caught.value.field) == ("Doc:a", name)
    record.name = "b"
    await record.save()
    _assert_kept(clean_server, "Doc:b")
    assert await Doc.query.filter(group="g1").keys() == ["Doc:b"]
    await record.expire_in(1000)
    _assert_kept(clean_server, "Doc:b")
    clean_server.client.delete("Doc:b")
    await record.save(if_gone="create")
    _assert_kept(clean_server, "Doc:b")
    record.size, record.data = 5, {"y": 2}
    await record.save()
    stored = await Doc.load(name="b")
    assert stored is not None
    assert (stored.size, stored.data) == (5, {"y": 2})


async def test_somebody_elses_save_between(db: Database, clean_server: Server) -> None:
    record = await _spoilt(clean_server)
    other = await Doc.load(name="a")
    assert other is not None
    other.group = "h"
    await other.save()
    record.group = "i"
    await asyncio.gather(record.save(), other.save())
    _assert_kept(clean_server)


async def test_every_way_of_reading_names_key_and_field(db: Database, clean_server: Server) -> None:
    record = await _spoilt(clean_server)
    (found,) = await Doc.query.filter(group="g")
    for one in (record, found, await record.refresh()):
        assert one.group == "g"
        with pytest.raises(CorruptRecord, match="size"):
            _ = one.size
    with pytest.raises(CorruptRecord, match="data") as caught:
        await Doc.query.values("name", "data")
    assert (caught.value.key, caught.value.field) == ("Doc:a", "data")
    assert await Doc.query.values("name", "group") == [{"name": "a", "group": "g"}]
    with pytest.raises(CorruptRecord):
        await record.increment("size")
    _assert_kept(clean_server)


async def test_a_record_whose_key_can_not_be_read_is_not_moved(db: Database, clean_server: Server) -> None:
    class Pair(Model):
        left: int = KeyField(type=int)
        right: str = KeyField()

    await Pair.create(left=1, right="r")
    clean_server.client.hset("Pair:1:r", "left", "one")
    (record,) = await Pair.query.filter(right="r")
    record.right = "s"
    before = snapshot(clean_server)
    with pytest.raises(CorruptRecord, match="left"):
        await record.save()
    assert snapshot(clean_server) == before


@pytest.mark.filterwarnings("ignore::popoto_async.UnindexedFilterWarning")
async def test_what_is_no_number_compares_like_null(db: Database, clean_server: Server) -> None:
    """Texts stored when the class declared a text: queries pass over them, who reads the field is told."""

    class Early(Model):
        name = KeyField()
        size = Field(type=str)
        level = Field(type=str, null=True)

        class Meta:
            name = "Item"

    class Late(Model):
        name = KeyField()
        size = Field(type=int)
        level = Field(type=float, null=True)

        class Meta:
            name = "Item"

    sizes = {"a": "40", "b": "many", "c": "7", "d": "nan", "e": "12345678901234567890", "f": "", "g": "0x10"}
    for name, size in sizes.items():
        await Early.create(name=name, size=size, level=size if name != "c" else None)

    async def found(**conditions: Any) -> list[str]:
        return [key[-1] for key in await Late.query.filter(**conditions).order_by("name").keys()]

    assert await found(size=40) == ["a"]
    assert await found(size__in=[40, 7]) == ["a", "c"]
    assert [key[-1] for key in await Late.query.exclude(size=40).order_by("name").keys()] == list("bcdefg")
    assert await found(level__in=[40.0, float("inf")]) == ["a"]
    assert await found(level__isnull=True) == ["c"]
    for by, order in (("size", "caebdfg"), ("-size", "eacgfdb")):
        assert [key[-1] for key in await Late.query.order_by(by).keys()] == list(order)
        assert [key[-1] for key in await Late.query.order_by(by).limit(2).keys()] == list(order[:2])
    with pytest.raises(CorruptRecord, match=r"Late\.size: what is stored can't be read"):
        await Late.query.order_by("size").page(4)
    assert [row.name for row in await Late.query.order_by("size").page(2)] == ["c", "a"]
    assert await Late.query.filter(size__in=[7, 40]).delete() == 2
    assert await Late.query.count() == 5


async def test_a_page_that_ends_at_what_can_not_be_read_says_so(db: Database, clean_server: Server) -> None:
    class Item(Model):
        name = KeyField()
        rank = SortedField(type=int)

    for rank in range(3):
        await Item.create(name=str(rank), rank=rank)
    clean_server.client.hset("Item:0", "rank", "many")
    with pytest.raises(CorruptRecord, match=r"Item\.rank") as caught:
        await Item.query.order_by("rank").page(1)
    assert caught.value.key == "Item:0"


async def test_two_versions_of_a_class_in_one_call_are_read_and_stored_each_as_it_is(db: Database) -> None:
    def wide() -> Any:
        class Shop(Model):
            name = KeyField()
            a = Field(default="A")
            b = Field(default="B")

        return Shop

    def narrow(checked: bool) -> Any:
        class Shop(Model):
            name = KeyField()
            b = Field(default="b")

            class Meta:
                versioned = checked

        return Shop

    first, second, third = wide(), narrow(checked=False), narrow(checked=True)
    await first.create(name="s")
    await second.create(name="t")
    async with trace() as t:
        found = await asyncio.gather(second.load(name="t"), first.load(name="s"), second.load(name="s"))
    assert t.round_trips == 1
    assert [one.to_dict() for one in found] == [
        {"name": "t", "b": "b"},
        {"name": "s", "a": "A", "b": "B"},
        {"name": "s", "b": "B"},
    ]
    made = await asyncio.gather(second.create(name="u"), third.create(name="v"))
    theirs = await third.load(name="v")
    theirs.b, made[1].b = "theirs", "ours"
    await theirs.save()
    with pytest.raises(StaleRecord):
        await made[1].save()
