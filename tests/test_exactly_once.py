"""Nothing is done twice and nothing done is reported as failed, wherever a connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from popoto_async import (
    Database,
    Field,
    IndexedField,
    KeyField,
    Model,
    OutcomeUnknown,
    PopotoError,
    SortedField,
    StaleRecord,
    Unavailable,
    UniqueField,
    connect,
    transaction,
)
from popoto_async import lane as lanes
from tests.proxy import Fault, FaultProxy
from tests.servers import Server, dump

pytestmark = pytest.mark.anyio


class Odometer(Model):
    name = KeyField()
    n = Field(type=int, default=0)


class Citizen(Model):
    name = KeyField()
    email = UniqueField()
    team = IndexedField(type=str, null=True)
    age = SortedField(type=int, null=True)


class Leaf(Model):
    class Meta:
        versioned = True

    name = KeyField()
    text = Field(type=str, default="")


@asynccontextmanager
async def proxied(server: Server) -> AsyncIterator[tuple[FaultProxy, Database]]:
    async with FaultProxy(server) as proxy, connect(proxy.url) as db:
        yield proxy, db


async def sizes(proxy: FaultProxy, work: Callable[[], Awaitable[Any]]) -> tuple[int, int]:
    """The bytes of the request and of the reply of the script call that `work` makes."""
    seen = proxy.delay(0, command="EVALSHA")
    await work()
    assert seen.reply is not None
    return len(seen.request), len(seen.reply)


def lane_keys(server: Server) -> list[bytes]:
    return [key for key in server.client.keys("*") if b"$Lane:" in key]


def records(server: Server) -> dict[bytes, object]:
    """The whole keyspace but the memory of the lanes."""
    return {key: value for key, value in dump(server).items() if b"$Lane:" not in key}


# At every byte ------------------------------------------------------------------------------------------------------


async def test_a_thousand_increments_are_a_thousand_wherever_the_connection_is_cut(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        counter = await Odometer.create(name="c")
        request, reply = await sizes(proxy, lambda: counter.increment("n"))
        cuts: list[tuple[Callable[..., Fault], int]] = [
            *((proxy.cut_request, after) for after in range(request + 1)),
            *((proxy.cut_reply, after) for after in range(reply + 1)),
        ]
        answers = [1]
        for cut, after in cuts:
            fault = cut(after, command="EVALSHA")
            answers.append(await counter.increment("n"))
            assert fault.done.is_set()
        assert len(answers) < 1000
        answers += await asyncio.gather(*(counter.increment("n") for _ in range(1000 - len(answers))))
        assert answers == list(range(1, 1001))
        stored = await Odometer.load(name="c")
        assert stored is not None
        assert stored.n == 1000
        assert db.stats().resent >= len(cuts) - 1  # cut after its last byte, a reply has arrived


async def test_the_greeting_and_the_lanes_opening_may_be_cut_too(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter = await Odometer.create(name="c")
        done = 0
        for command in ("INFO", "TIME", "SET", "SCRIPT"):
            for after in (0, 1, 7, 20):
                for cut in (proxy.cut_request, proxy.cut_reply):
                    clean_server.client.script_flush()
                    proxy.drop_all()
                    cut(after, command=command)
                    done += 1
                    assert await counter.increment("n") == done


class Case:
    """A change, what it is to find, and what it leaves."""

    def __init__(self, number: int) -> None:
        self.name = f"n{number}"

    async def prepare(self) -> None:
        """What the change needs."""

    async def change(self) -> None:
        """The change; it fails where it is done twice."""
        raise NotImplementedError

    async def check(self) -> None:
        """That it was done."""


class Creation(Case):
    async def change(self) -> None:
        await Citizen.create(name=self.name, email=self.name, if_exists="error")

    async def check(self) -> None:
        assert await Citizen.query.filter(email=self.name).count() == 1


class Rename(Case):
    async def prepare(self) -> None:
        self.person = await Citizen.create(name=self.name, email=self.name, team="a", age=3)

    async def change(self) -> None:
        self.person.name = f"new {self.name}"
        assert await self.person.save(if_exists="error")

    async def check(self) -> None:
        assert await Citizen.load(name=self.name) is None
        found = await Citizen.load(name=f"new {self.name}")
        assert found is not None
        assert found.email == self.name


class Deletion(Case):
    async def prepare(self) -> None:
        self.person = await Citizen.create(name=self.name, email=self.name, age=1)

    async def change(self) -> None:
        assert await self.person.delete() is True, "it existed, and this call deleted it"

    async def check(self) -> None:
        assert not await Citizen.exists(name=self.name)


class VersionedSave(Case):
    async def prepare(self) -> None:
        self.page = await Leaf.create(name=self.name)

    async def change(self) -> None:
        self.page.text = "one"
        await self.page.save()

    async def check(self) -> None:
        self.page.text = "two"
        await self.page.save()
        stale = await Leaf.load(name=self.name)
        assert stale is not None
        self.page.text = "three"
        await self.page.save()
        stale.text = "lost"
        with pytest.raises(StaleRecord):
            await stale.save()


class Finding(Case):
    async def change(self) -> None:
        _, created = await Citizen.get_or_create(email=self.name, defaults={"name": self.name})
        assert created

    async def check(self) -> None:
        assert await Citizen.query.filter(email=self.name).count() == 1


class Move(Case):
    async def prepare(self) -> None:
        self.old = await Citizen.create(name=self.name, email=self.name)

    async def change(self) -> None:
        new = Citizen(name=f"other {self.name}", email=self.name)
        async with transaction() as tx:
            tx.delete(self.old)
            tx.save(new, if_exists="error")

    async def check(self) -> None:
        found = await Citizen.query.filter(email=self.name)
        assert [person.name for person in found] == [f"other {self.name}"]


@pytest.mark.parametrize("kind", [Creation, Rename, Deletion, VersionedSave, Finding, Move])
async def test_a_change_reports_its_own_success_wherever_the_connection_is_cut(
    clean_server: Server, kind: type[Case]
) -> None:
    async with proxied(clean_server) as (proxy, _):
        first = kind(0)
        await first.prepare()
        request, reply = await sizes(proxy, first.change)
        await first.check()
        step = 37  # coprime to the lengths of the parts of a request: all parts are hit
        cuts: list[tuple[Callable[..., Fault], int]] = [
            *((proxy.cut_request, after) for after in (*range(0, request, step), request - 1, request)),
            *((proxy.cut_reply, after) for after in range(reply + 1)),
        ]
        for number, (cut, after) in enumerate(cuts, 1):
            case = kind(number)
            await case.prepare()
            fault = cut(after, command="EVALSHA")
            await case.change()
            assert fault.done.is_set()
            await case.check()


async def test_a_batch_is_resent_as_a_whole_and_answered_operation_by_operation(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        ann = await Citizen.create(name="ann", email="ann")
        counter = await Odometer.create(name="c")
        for after in (0, 10, 60):
            await Citizen.query.filter(team="new").count()
            proxy.cut_reply(after, command="EVALSHA")
            outcomes = await asyncio.gather(
                counter.increment("n"),
                Citizen.create(name=f"bob{after}", email="ann"),
                Citizen.create(name=f"eve{after}", email=f"eve{after}", if_exists="error"),
                counter.increment("n"),
                Citizen.create(name="ann", email="x", if_exists="error"),
                return_exceptions=True,
            )
            names = [type(outcome).__name__ for outcome in outcomes]
            assert names == ["int", "UniqueViolation", "Citizen", "int", "AlreadyExists"]
            assert outcomes[3] == outcomes[0] + 1
        assert counter.n == 6
        assert await Citizen.query.count() == 4
        assert (await ann.refresh()).email == "ann"
        assert db.stats().resent == 3


async def test_reads_of_a_resent_call_are_read_again(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter = await Odometer.create(name="c")
        proxy.swallow_reply(command="EVALSHA")
        value, loaded = await asyncio.gather(counter.increment("n"), Odometer.load(name="c"))
        assert value == 1
        assert loaded is not None
        assert loaded.n == 1


async def test_a_lost_read_is_sent_again(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await Odometer.create(name="c")
        for command in ("EVALSHA", "EVALSHA_RO"):
            proxy.swallow_reply(command=command)
        assert await Odometer.exists(name="c")


async def test_big_values_on_the_second_lane_are_stored_once(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        page = await Leaf.create(name="p")
        Leaf._meta.fields["text"].max_length = None
        for number in range(1, 6):
            page.text = str(number) * 200_000
            proxy.cut_request(number * 40_000, command="EVALSHA")
            proxy.swallow_reply(nth=2, command="EVALSHA")
            await page.save()  # versioned: a save applied twice would be stale
        found = await Leaf.load(name="p")
        assert found is not None
        assert found.text == "5" * 200_000
        assert db.stats().resent == 10


# What comes late ----------------------------------------------------------------------------------------------------


async def test_a_request_that_arrives_after_its_resend_is_refused(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter = await Odometer.create(name="c")
        held = proxy.hold_request(command="EVALSHA")
        assert await counter.increment("n") == 1
        before = records(clean_server)
        late = await held.deliver()
        assert b"ok" in late, "the same sequence gets the same answer"
        assert records(clean_server) == before

        held = proxy.hold_request(command="EVALSHA")
        assert await counter.increment("n") == 2
        assert await counter.increment("n") == 3
        before = records(clean_server)
        assert b"refused" in await held.deliver()
        assert records(clean_server) == before
        assert (await counter.refresh()).n == 3


async def test_the_memory_of_a_lane_is_one_expiring_key(clean_server: Server) -> None:
    async with proxied(clean_server):
        for number in range(20):
            await Odometer.create(name=f"c{number}")
        keys = lane_keys(clean_server)
        assert len(keys) == 1
        assert 0 < clean_server.client.ttl(keys[0]) <= lanes.LANE_TTL


async def test_a_lane_that_was_idle_for_long_has_its_key_made_again(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, db):
        counter = await Odometer.create(name="c")
        clean_server.client.delete(*lane_keys(clean_server))  # as the server does after LANE_TTL
        lane = db.session().dispatcher.lanes[0]
        lane._remembered = 0.0 if lane._remembered is None else lane._remembered - lanes.LANE_TTL
        proxy.cut_request(50, command="EVALSHA")  # it never arrives, which only the lane's key can tell
        assert await counter.increment("n") == 1


# What can't be known ------------------------------------------------------------------------------------------------


async def lose(proxy: FaultProxy, server: Server, work: Awaitable[Any], meanwhile: Callable[[], Any]) -> Any:
    """The outcome of work whose reply is lost, where something happens before the client is back."""
    lost = proxy.swallow_reply(command="EVALSHA")
    proxy.refuse()

    async def do() -> Any:
        return await work

    task = asyncio.create_task(do())
    await lost.happened()
    meanwhile()
    await proxy.accept()
    return (await asyncio.gather(task, return_exceptions=True))[0]


@pytest.mark.parametrize("accident", ["the key expires", "flush", "restart without persistence"])
async def test_an_outcome_that_the_server_forgot_is_unknown(clean_server: Server, accident: str) -> None:
    accidents: dict[str, Callable[[], Any]] = {
        "the key expires": lambda: clean_server.client.delete(*lane_keys(clean_server)),
        "flush": clean_server.client.flushall,
        "restart without persistence": clean_server.restart,
    }
    async with proxied(clean_server) as (proxy, _):
        counter = await Odometer.create(name="c")
        outcome = await lose(proxy, clean_server, counter.increment("n"), accidents[accident])
        assert isinstance(outcome, OutcomeUnknown)
        assert outcome.model == "Odometer"
        assert "load the record" in str(outcome.__notes__)
        assert await Odometer.create(name="after"), "the lane goes on"


async def test_neighbours_of_an_unknown_outcome_each_get_an_error_of_their_own(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        counter = await Odometer.create(name="c")
        work = asyncio.gather(*(counter.increment("n") for _ in range(3)), return_exceptions=True)
        outcomes = await lose(proxy, clean_server, work, clean_server.client.flushall)
        assert [type(one) for one in outcomes] == [OutcomeUnknown] * 3
        assert len({id(one) for one in outcomes}) == 3


async def test_a_read_never_has_an_unknown_outcome(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await Odometer.create(name="c")
        work = asyncio.gather(Odometer.load(name="c"), Odometer.query.count())
        proxy.swallow_reply(command="EVALSHA_RO")
        outcome = await asyncio.gather(work, return_exceptions=True)
        assert outcome[0][1] == 1


async def test_a_server_that_stays_away_leaves_writes_that_left_unknown_and_the_rest_undone(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "PATIENCE", 0.2)
    async with proxied(clean_server) as (proxy, _):
        counter = await Odometer.create(name="c")
        lost = proxy.swallow_reply(command="EVALSHA")
        left = asyncio.create_task(counter.increment("n"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        proxy.refuse()
        await lost.happened()
        queued = asyncio.create_task(counter.increment("n"))
        read = asyncio.create_task(Odometer.load(name="c"))
        outcomes = await asyncio.gather(left, queued, read, return_exceptions=True)
        assert [type(one) for one in outcomes] == [OutcomeUnknown, Unavailable, Unavailable]
        with pytest.raises(Unavailable):
            await counter.increment("n")
        await proxy.accept()
        assert await counter.increment("n") == 2


async def test_a_frozen_server_is_given_up_and_asked_again(
    clean_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "CALL_TIMEOUT", 0.2)
    async with proxied(clean_server) as (proxy, db):
        counter = await Odometer.create(name="c")
        held = proxy.hold_reply(command="EVALSHA")
        assert await counter.increment("n") == 1
        assert held.done.is_set()
        assert db.stats().resent == 1
        assert db.stats().connections == 1


# Servers that fail ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_server_killed_in_the_middle_and_started_again_has_done_everything_once(
    start_server: Callable[..., Server], kind: str
) -> None:
    server = start_server(kind, appendonly="yes", appendfsync="always")
    async with connect(server.url) as db:
        counters = await asyncio.gather(*(Odometer.create(name=f"c{n}") for n in range(4)))
        sums = [0] * 4

        async def count(at: int) -> None:
            while db.stats().reconnects < 4:
                sums[at] += 1
                assert await counters[at].increment("n") == sums[at]

        async def kill() -> None:
            for _ in range(4):
                reached = sum(sums) + 40
                while sum(sums) < reached:
                    await asyncio.sleep(0)
                server.kill()
                await asyncio.to_thread(server.start)

        await asyncio.gather(kill(), *(count(at) for at in range(4)))
        found = [await Odometer.load(name=f"c{n}") for n in range(4)]
        assert [one and one.n for one in found] == sums


async def test_a_lane_is_made_known_to_each_server_it_meets(clean_server: Server) -> None:
    async with proxied(clean_server) as (proxy, _):
        await Odometer.create(name="c")
        await asyncio.to_thread(clean_server.restart)
        proxy.cut_request(50, command="EVALSHA")  # it never arrives, which only the lane's key can tell
        assert await Odometer.create(name="d")


async def test_a_restart_between_two_calls_is_not_noticed(clean_server: Server) -> None:
    async with connect(clean_server.url) as db:
        await Odometer.create(name="c")
        await asyncio.to_thread(clean_server.restart)
        assert await Odometer.create(name="d"), "it forgot everything, also the lane, and nothing was on its way"
        assert db.stats().reconnects == 1


def replicated(primary: Server) -> None:
    """Wait until the replica has everything. WAIT speaks of the own connection's writes, so one is made."""
    primary.client.set("fence", "")
    primary.client.delete("fence")
    assert primary.client.wait(1, 5000) == 1


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_after_a_failover_what_the_new_primary_lacks_is_done_there(
    start_server: Callable[..., Server], kind: str
) -> None:
    primary = start_server(kind)
    replica = start_server(kind, replica_of=primary)
    async with proxied(primary) as (proxy, _):
        counter = await Odometer.create(name="c")
        assert await counter.increment("n") == 1
        replicated(primary)

        def fail_over() -> None:
            replica.client.replicaof("NO", "ONE")
            proxy.upstream = replica.socket_path

        replica.client.replicaof("127.0.0.1", "1")  # it gets no more of the primary's writes
        outcome = await lose(proxy, primary, counter.increment("n"), fail_over)
        assert outcome == 2
        assert await counter.increment("n") == 3


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_after_a_failover_to_a_server_without_the_lane_the_outcome_is_unknown(
    start_server: Callable[..., Server], kind: str
) -> None:
    primary, other = start_server(kind), start_server(kind)
    async with proxied(primary) as (proxy, _):
        counter = await Odometer.create(name="c")
        outcome = await lose(
            proxy, primary, counter.increment("n"), lambda: setattr(proxy, "upstream", other.socket_path)
        )
        assert isinstance(outcome, OutcomeUnknown)
        assert await Odometer.create(name="d"), "scripts are loaded there, slots assigned"


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_primary_that_became_a_replica_is_left_for_the_new_one(
    start_server: Callable[..., Server], kind: str
) -> None:
    primary = start_server(kind)
    replica = start_server(kind, replica_of=primary)
    async with proxied(primary) as (proxy, _):
        counter = await Odometer.create(name="c")
        replicated(primary)
        replica.client.replicaof("NO", "ONE")
        primary.client.replicaof("127.0.0.1", str(replica.port))
        proxy.upstream = replica.socket_path  # as a name that leads elsewhere now; the open connection stays
        assert await counter.increment("n") == 1
        assert replica.client.hget("Odometer:c", "n") == b"1"


async def test_at_its_maxmemory_a_server_can_still_be_deleted_from(start_server: Callable[..., Server]) -> None:
    server = start_server("redis", maxmemory_policy="noeviction")
    async with proxied(server) as (proxy, _):
        people = [await Citizen.create(name=f"p{n}", email=f"e{n}") for n in range(3)]
        server.client.config_set("maxmemory", "1")
        proxy.drop_all()
        assert await people[0].delete()
        assert await lose(proxy, server, people[1].delete(), lambda: None) is True
        with pytest.raises(PopotoError, match="maxmemory"):
            await Citizen.create(name="new", email="new")
        assert await Citizen.query.count() == 1
