"""One pass over the keyspace of a model: what its records imply beside what stands there, and what to do about it.

A record is looked at and compared in one script call, and mended in a second that first makes sure that it is still as
it was looked at. Index keys are gone through in pages; a member that no manifest names is judged by its record's
values. So other clients may go on writing, and nothing is held here but a few pages.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from inspect import isawaitable
from typing import Any

from popoto_async.keys import mirrored, unescape
from popoto_async.maintenance.renames import Renames
from popoto_async.maintenance.report import Damage, ModelReport, Tally
from popoto_async.outcomes import failure
from popoto_async.plan import MEMBER, Operation, Outcome
from popoto_async.planning.audit import (
    BESIDES,
    FOREIGN,
    LISTS,
    PAGE,
    SOUND,
    Bytes,
    Found,
    Implied,
    Place,
    Places,
    audited,
    fixed_places,
    implied,
    plan_audit,
    plan_mark,
    plan_members,
    plan_mend,
    plan_prune,
    stored_names,
)
from popoto_async.records import ask, database_of, require_concrete
from popoto_async.schema import Binding, Schema

Progress = Callable[[int, int], Any]

AT_ONCE = 4
"""Pages under way at once: the server works on one while others are compared here."""

MOST_MISSING = 10_000
"""Missing entries that are remembered until the lists of values are gone through."""

ATTEMPTS = 5
"""Times that a record is looked at again which changed before it could be mended."""

SCAN_COUNT = 2000

DEAD = {"class": "ghost", "manifests": "leftover", "deadlines": "late"}
"""Kind of place → the damage that a member without a record is; in an index, an orphan."""


def text(raw: Any) -> str:
    """A key or member as a report shows it."""
    return raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)


async def scanned(schema: Schema, binding: Binding) -> AsyncIterator[list[bytes]]:
    """The keys that have the model's name in them, in pages; a key may come twice while the keyspace moves."""
    database, keys = database_of(schema), binding.keys
    prefix, name = (re.sub(r"([\\*?\[\]])", r"\\\1", part) for part in (keys.prefix, keys.records[len(keys.prefix) :]))
    cursor = b"0"
    while True:
        cursor, found = await database.execute("SCAN", cursor, "MATCH", f"{prefix}*{name}*", "COUNT", SCAN_COUNT)
        yield found
        if cursor == b"0":
            return


class Window:
    """Work under way, a little at once; the first error ends it all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Window:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            while kind is None and self._tasks:
                await self._some()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin it when there is room."""
        self._tasks.add(asyncio.create_task(work))
        if len(self._tasks) >= AT_ONCE:
            await self._some()

    async def _some(self) -> None:
        done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


class Survey:
    """A run over one model.

    `dry` only tells; `anew` has every record occupy what its values imply, whatever the manifest says; `renamed` are
    stored names → the fields whose values stand under them.
    """

    def __init__(
        self, cls: Any, *, dry: bool, anew: bool = False, renamed: Mapping[str, str], progress: Progress | None
    ) -> None:
        self.schema: Schema = cls._meta
        require_concrete(self.schema)
        self._database = database_of(self.schema)
        self._names = stored_names(self.schema, renamed)
        self._dry, self._anew, self._renamed = dry, anew, renamed
        self._progress, self._expected = progress, 0
        self._run = os.urandom(4).hex()
        self.tally = Tally(self.schema.model)
        self._lists: list[Place] = []
        self._missing: set[tuple[int, str]] = set()

    async def run(self) -> ModelReport:
        """Look at everything once."""
        binding = await self.current()
        if await self._is_ours(binding):
            self._expected = await self._database.execute("ZCARD", binding.keys.klass)
            renames = await self._renames(binding)
            await self._tell()
            marking = self._anew and not self._dry and binding.definitions
            if marking:
                binding = await self._mark(over=False)
            async with Window() as window:
                await self._scan(binding, window)
                for place in fixed_places(binding):
                    await window.start(self._look_through([place]))
            # When all records are in order, a listed value that nobody has is not one that is about to be put right.
            await self._look_through(self._lists)
            if marking:
                await self._mark(over=True)
            if self.tally.records:
                self.tally.unbuilt = tuple(sorted((await self.current()).unbuilt))
            for damage in await renames.stalled():
                self.tally.add(damage, mended=not self._dry and await renames.finish(damage))
            await self._tell(over=True)
        return self.tally.report()

    async def current(self) -> Binding:
        """The slot table as it stands."""
        keys = self._database.binding(self.schema).keys
        if await self._database.execute("TYPE", keys.slots) != b"string":
            return self._database.binding(self.schema)
        stored = await self._database.execute("GET", keys.slots)
        return self._database.rebind(self.schema, text(stored or b""))

    async def _scan(self, binding: Binding, window: Window) -> None:
        prefix, book = binding.keys.records.encode(), Places(binding)
        records: list[bytes] = []
        places: list[Place] = []
        async for keys in scanned(self.schema, binding):
            for key in keys:
                if key.startswith(prefix):
                    records.append(key)
                elif (place := book.find(key)) is not None:
                    (self._lists if place.kind in LISTS.values() else places).append(place)
            while len(records) >= PAGE:
                await window.start(self._look_at(records[:PAGE]))
                del records[:PAGE]
            while len(places) >= PAGE:
                await window.start(self._look_through(places[:PAGE]))
                del places[:PAGE]
        await window.start(self._look_at(records))
        await window.start(self._look_through(places))

    async def _mark(self, *, over: bool) -> Binding:
        """Tell others that indexes are being rebuilt, or that they are now, as far as that is so."""

        def plan(bound: Binding) -> Operation:
            every = bound.definitions if self.tally.busy else ()
            but = [name for name in bound.definitions if bound.prefixes[name] in self.tally.contested]
            return plan_mark(bound, self._run, over=over, but=[*every, *but])

        await self._send("rebuild", plan)
        return await self.current()

    async def _is_ours(self, binding: Binding) -> bool:
        """Whether the keys that everything rests on are what they must be, as far as they are there."""
        keys, sound = binding.keys, True
        needed = {keys.klass: b"zset", keys.manifests: b"hash", keys.deadlines: b"zset", keys.slots: b"string"}
        for key, kind in needed.items():
            found = await self._database.execute("TYPE", key)
            if found not in (kind, b"none"):
                self._add(Damage("foreign", key, other=text(found)))
                sound = False
        return sound

    async def _renames(self, binding: Binding) -> Renames:
        """The unfinished renames. Of streams no more can be told than that they are streams."""
        keys = binding.keys
        renames = Renames(self.schema, self._database, keys.aliases)
        for key, kind in ((keys.aliases, b"hash"), (keys.stream, b"stream"), (keys.dead_letters, b"stream")):
            found = await self._database.execute("TYPE", key)
            if found not in (kind, b"none"):
                self._add(Damage("foreign", key, other=text(found)))
            elif found == b"hash":
                await renames.look()
        for damage in renames.unreadable:
            self._add(damage)
        return renames

    # Sending -----------------------------------------------------------------------------------------------------

    async def _send(self, name: str, plan: Callable[[Binding], Operation]) -> tuple[Outcome, Binding]:
        status, outcome, binding = await ask(name, self.schema, plan, cost=1000)
        if status != b"ok":
            raise failure(self.schema, "", {}, outcome, binding)
        return outcome, binding

    async def _tell(self, *, over: bool = False) -> None:
        if self._progress is not None:
            total = max(self._expected, self.tally.records)
            told = self._progress(total if over else self.tally.records, total)
            if isawaitable(told):
                await told

    def _add(self, damage: Damage) -> None:
        self.tally.add(damage, mended=not self._dry and damage.repairable)

    # Records -----------------------------------------------------------------------------------------------------

    def _implied(self, binding: Binding, row: Sequence[Bytes], manifest: Bytes) -> Implied:
        return implied(binding, row, manifest, anew=self._anew, renamed=self._renamed)

    async def _audited(self, keys: Sequence[bytes]) -> tuple[list[Found | None], Binding]:
        if not keys:
            return [], self._database.binding(self.schema)
        outcome, binding = await self._send("check", lambda bound: plan_audit(bound, keys, self._names))
        return audited(outcome[1], len(self._names)), binding

    async def _look_at(self, keys: list[bytes]) -> None:
        """Compare records with what they imply; mend those that differ."""
        answers, binding = await self._audited(keys)
        differing: list[Awaitable[None]] = []
        for key, answer in zip(keys, answers, strict=True):
            if answer is None:
                continue
            row, manifest, state = answer
            if state == FOREIGN:
                self._add(Damage("foreign", text(key), other=text(manifest)))
                continue
            found = self._implied(binding, row, manifest)
            self.tally.records += 1
            self.tally.entries += len(found.triples)
            self._judge_values(key, found)
            if state != SOUND or found.manifest != manifest or any(row[len(self.schema.fields) :]):
                differing.append(self._mend(key, answer))
        for work in differing:
            await work
        if keys:
            await self._tell()

    def _judge_values(self, key: bytes, found: Implied) -> None:
        for name in found.unreadable:
            self._add(Damage("unreadable", text(key), other=name))
        if found.key is not None and found.key.encode() != key:
            self._add(Damage("misplaced", text(key), other=found.key))

    async def _mend(self, key: bytes, answer: Found, suspects: frozenset[tuple[int, str]] = frozenset()) -> None:
        """Mend a record, or only tell; look at it again where it changed meanwhile."""
        for _ in range(ATTEMPTS):
            row, manifest, _ = answer

            def plan(bound: Binding, row: Sequence[Bytes] = row, manifest: Bytes = manifest) -> Operation:
                found = self._implied(bound, row, manifest)
                return plan_mend(
                    bound, key, row, manifest, found, dry=self._dry, renamed=self._renamed, suspects=suspects
                )

            outcome, binding = await self._send("mend", plan)
            if outcome[1] != b"changed":
                self._note(key, outcome[2], binding, suspects)
                return
            (again,), _ = await self._audited([key])
            if again is None or again[2] == FOREIGN:
                return
            answer = again
        self.tally.busy += 1

    def _note(self, key: bytes, faults: list[Any], binding: Binding, suspects: frozenset[tuple[int, str]]) -> None:
        for raw, slot, tail, other in faults:
            kind, where = text(raw), text(tail)
            if suspects and self._dry and (kind != "extra" or (slot, where) not in suspects):
                continue  # found when the record itself is looked at
            place, claimed, beside = "", "", "" if other is None else text(other)
            if slot >= 0:
                line = binding.lines[slot].partition("\t")[0]
                place, claimed = (line[1:] + where, "") if line[0] == MEMBER else (line[1:], where)
            if kind == "missing" and len(self._missing) < MOST_MISSING:
                self._missing.add((slot, where))
            elif kind == "unlisted":
                kind, place, claimed, beside = "missing", beside, where, ""
            if kind == "name":
                beside = f"{where} → {beside}"
            elif kind == "manifest":
                beside = "" if other else "there is none"
            self._add(Damage(kind, text(key), place, claimed, beside))

    # Index keys --------------------------------------------------------------------------------------------------

    async def _look_through(self, places: list[Place]) -> None:
        """Find what stands in index keys and is not implied."""
        first, cursor = (1, b"0") if places else (0, b"")
        while first:

            def plan(bound: Binding, first: int = first, cursor: bytes = cursor) -> Operation:
                return plan_members(bound, _resolved(bound, places), first, cursor)

            outcome, binding = await self._send("check", plan)
            _, suspects, foreign, _, first, cursor = outcome
            known = _resolved(binding, places)
            for number, kind in foreign:
                self._add(Damage("foreign", text(known[number - 1].key), other=text(kind)))
            dead: dict[int, list[tuple[bytes, bytes]]] = {}
            living: dict[bytes, set[tuple[int, str]]] = {}
            ending: set[int] = set()
            for number, tail, member, lives in suspects:
                place = known[number - 1]
                if place.kind in LISTS.values() and self._is_awaited(place, text(member)):
                    continue
                if lives and place.kind in BESIDES.values():
                    ending.add(number)
                if lives and place.slot >= 0 and number not in ending:
                    living.setdefault(member, set()).add((place.slot, text(tail)))
                else:
                    dead.setdefault(number, []).append((tail, member))
            for number, members in dead.items():
                await self._prune(known[number - 1], members, ending=number in ending)
            await self._judge(living)

    def _is_awaited(self, place: Place, listed: str) -> bool:
        """Whether a value that is listed, and nobody's, is one of a record that was not mended."""
        value = mirrored(unescape(listed)) if place.kind == LISTS["Rev"] else listed
        return (place.slot, value) in self._missing

    async def _prune(self, place: Place, members: list[tuple[bytes, bytes]], *, ending: bool) -> None:
        """Remove members that stand for no record, or have a list end with its record; or only tell."""
        for first in range(0, len(members), PAGE):
            page = members[first : first + PAGE]
            done = [1] * len(page)
            if not self._dry:

                def plan(bound: Binding, page: list[tuple[bytes, bytes]] = page) -> Operation:
                    return plan_prune(bound, _resolved(bound, [place])[0], page)

                done = (await self._send("mend", plan))[0][1]
            kind = "deadline" if ending else DEAD.get(place.kind, "orphan")
            for (tail, member), removed in zip(page, done, strict=True):
                if removed:
                    claimed = "" if place.kind in (MEMBER, *DEAD) else text(tail)
                    self._add(Damage(kind, text(member), text(place.key), claimed))

    async def _judge(self, living: Mapping[bytes, set[tuple[int, str]]]) -> None:
        """Members that live, and whose manifests don't name these places: what counts is what their values imply."""
        keys = list(living)
        for first in range(0, len(keys), PAGE):
            page = keys[first : first + PAGE]
            answers, binding = await self._audited(page)
            for key, answer in zip(page, answers, strict=True):
                if answer is None or answer[2] == FOREIGN:
                    continue
                found = self._implied(binding, answer[0], answer[1])
                extra = living[key] - {(slot, tail) for slot, tail, _ in found.triples}
                if extra:
                    await self._mend(key, answer, frozenset(extra))


def _resolved(binding: Binding, places: Sequence[Place]) -> list[Place]:
    """The places under a slot table, which may have got another since they were found."""
    book = Places(binding)
    return [place if place.kind in DEAD else book.find(place.key) or place for place in places]
