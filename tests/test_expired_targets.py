"""What becomes of references to a record that expires: nothing, whatever `on_delete` says; and they are no damage."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from popoto_async import (
    CASCADE,
    DO_NOTHING,
    PROTECT,
    SET_NULL,
    Database,
    IndexedField,
    KeyField,
    Model,
    ProtectedRecord,
    Q,
    RecordGone,
    Relationship,
    SortedField,
    maintenance,
    trace,
)
from tests.model_of_store import assert_true, rows_of, snapshot, values_of
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Session(Model):
    token: str = KeyField()
    device: str | None = IndexedField(default="phone")


class Basket(Model):
    number: int = KeyField()
    nulled = Relationship(Session, on_delete=SET_NULL, related_name="baskets")
    going = Relationship(Session, on_delete=CASCADE)
    held = Relationship(Session, on_delete=PROTECT)
    left = Relationship(Session, on_delete=DO_NOTHING)
    total: int = SortedField(default=1, partition_by="nulled")

    class Meta:
        unique_together = (("nulled", "number"),)


MODELS: list[type[Model]] = [Session, Basket]
NAMES = ("nulled", "going", "held", "left")


@pytest.fixture
async def expired(db: Database, clean_server: Server) -> Any:
    """A session that four baskets referred to, one in each way; a fifth refers to one that lives."""
    session, other = await Session.create(token="s:1"), await Session.create(token="t")
    for number, name in enumerate(NAMES):
        await Basket.create(number=number, **{name: session})
    await Basket.create(number=4, **dict.fromkeys(NAMES, other))
    with pytest.raises(ProtectedRecord):
        await session.delete()
    await session.expire_in(0.001)  # which nothing holds up
    while clean_server.client.exists("Session:s%3A1"):
        await asyncio.sleep(0.001)
    return session


@pytest.fixture(params=["not swept", "swept"])
async def swept(request: pytest.FixtureRequest, expired: Any, clean_server: Server) -> bool:
    """Both: its entries may stand there for a while."""
    if request.param == "swept":
        assert await Session.query.count() == 1
    assert clean_server.client.zcard("$Class:Session") == (1 if request.param == "swept" else 2)
    return bool(request.param == "swept")


async def test_references_stay_and_lead_nowhere(expired: Any, swept: bool, clean_server: Server) -> None:
    for number, name in enumerate(NAMES):
        basket: Any = await Basket.load(number=number)
        assert getattr(basket, name) == Session.ref(token="s:1")
        with pytest.raises(RecordGone, match="Session:s%3A1"):
            await getattr(basket, name)
        assert await basket.fetch(name) is None
        (again,) = await Basket.query.filter(number=number).prefetch(name)
        with pytest.raises(RecordGone):
            await getattr(again, name)
        basket.total = 2
        await basket.save()  # as any other
    assert await Session.query.count() == 1
    found = rows_of(assert_true(clean_server, MODELS), MODELS)[Basket]
    for number, name in enumerate(NAMES):
        assert found[f"Basket:{number}"][name] == "Session:s%3A1"


async def test_conditions_through_them_match_nothing(expired: Any, swept: bool) -> None:
    for number, name in enumerate(NAMES):
        own = [f"Basket:{number}"]
        assert await Basket.query.filter(**{f"{name}__device": "phone"}).keys() == ["Basket:4"]
        assert await Basket.query.filter(**{f"{name}__token": "s:1"}).keys() == []
        assert own[0] in await Basket.query.exclude(**{f"{name}__device": "phone"}).keys()
        # What they hold is still a key.
        assert await Basket.query.filter(**{name: expired}).keys() == own
        assert own[0] not in await Basket.query.filter(**{f"{name}__isnull": True}).keys()
    assert await Basket.query.filter(nulled=expired, total__gte=1).order_by("total").keys() == ["Basket:0"]
    assert await expired.baskets.keys() == ["Basket:0"]


async def test_deleting_it_is_too_late(expired: Any, swept: bool, clean_server: Server) -> None:
    assert not await expired.delete()
    assert await Basket.query.count() == 5
    assert await Session.query.filter(token="s:1").delete() == 0
    assert await Session.query.count() == 1
    found = rows_of(assert_true(clean_server, MODELS), MODELS)[Basket]
    assert found["Basket:0"]["nulled"] == "Session:s%3A1"


async def test_a_record_that_comes_back_is_what_they_refer_to(expired: Any, swept: bool, clean_server: Server) -> None:
    again = await Session.create(token="s:1", device="watch")
    assert await Basket.query.filter(going__device="watch").keys() == ["Basket:1"]
    with pytest.raises(ProtectedRecord):
        await again.delete()
    await Basket.ref(number=2).delete()
    assert await again.delete()
    found = rows_of(assert_true(clean_server, MODELS), MODELS)[Basket]
    assert found.keys() == {"Basket:0", "Basket:3", "Basket:4"}
    assert found["Basket:0"]["nulled"] is None


async def test_they_are_no_damage(expired: Any, swept: bool, clean_server: Server) -> None:
    before = snapshot(clean_server) if swept else None
    for run in (maintenance.check, maintenance.repair, maintenance.rebuild):
        report = await run(*MODELS)
        assert (report.clean, [model.records for model in report.models]) == (True, [1, 5])
    after = assert_true(clean_server, MODELS)
    assert before is None or after == before


async def test_they_are_found_and_mended_by_a_query(expired: Any, swept: bool, clean_server: Server) -> None:
    """As docs/relations.md says."""
    for name in ("nulled", "left"):
        dangling = Basket.query.filter(~Q(**{f"{name}__token__isnull": False}), **{f"{name}__isnull": False})
        assert await dangling.update(**{name: None}) == 1
        assert await dangling.count() == 0
    dangling = Basket.query.filter(~Q(going__token__isnull=False), going__isnull=False)
    async with trace() as spent:
        assert await dangling.keys() == ["Basket:1"]
    assert spent.round_trips == 1
    assert await dangling.delete() == 1
    assert await Session.query.count() == 1  # which sweeps
    found = rows_of(assert_true(clean_server, MODELS), MODELS)[Basket]
    assert found.keys() == {"Basket:0", "Basket:2", "Basket:3", "Basket:4"}
    assert [found[f"Basket:{n}"][name] for n, name in ((0, "nulled"), (3, "left"))] == [None, None]


async def test_a_cascade_goes_past_them(expired: Any, swept: bool, clean_server: Server) -> None:
    """What refers to a gone record and to one that is deleted goes with the latter."""
    basket: Any = await Basket.load(number=4)
    basket.nulled, basket.held = expired, None
    await basket.save()
    assert values_of(basket)["nulled"] == "Session:s%3A1"
    assert await Session.ref(token="t").delete()
    assert await Basket.load(number=4) is None
    assert await Session.query.count() == 0
    assert_true(clean_server, MODELS)
