"""How much a model has stored: records, index by index, and the memory these take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from popoto_async.maintenance.report import IndexStats, ModelStats
from popoto_async.maintenance.survey import Survey, scanned
from popoto_async.outcomes import failure
from popoto_async.plan import Operation
from popoto_async.planning.audit import PAGE, Places, fixed_places, plan_weigh
from popoto_async.records import ask
from popoto_async.schema import Binding, Schema

SAMPLE = 500
"""Records whose memory is asked for; the others are taken to be like them."""


async def weigh(model: type[Any]) -> ModelStats:
    """Go through the keys of a model once."""
    survey = Survey(model, dry=True, renamed={}, progress=None)
    schema, binding = survey.schema, await survey.current()
    book, prefix = Places(binding), binding.keys.records.encode()
    indexes: dict[str, list[int]] = {}
    own = binding.keys
    others = (("renames", own.aliases), ("stream", own.stream), ("dead letters", own.dead_letters))
    records: list[bytes] = []
    places: list[tuple[str, bytes]] = [(place.kind, place.key) for place in fixed_places(binding)]
    async for keys in scanned(schema, binding):
        for key in keys:
            if key.startswith(prefix):
                if len(records) < SAMPLE:
                    records.append(key)
            elif (place := book.find(key)) is not None:
                places.append((place.index, key))
        while len(places) >= PAGE:
            await _add(schema, places[:PAGE], indexes)
            del places[:PAGE]
    await _add(schema, [*places, *((name, key.encode()) for name, key in others)], indexes)
    sizes = [size for first in range(0, len(records), PAGE) for size in await _sizes(schema, records[first:][:PAGE])]
    known = [weight for _, weight in sizes if weight]
    absent = [name for name, _ in others if not indexes[name][0]]
    sums = {name: IndexStats(name, *numbers) for name, numbers in sorted(indexes.items()) if name not in absent}
    count = sums["class"].entries
    return ModelStats(
        schema.model,
        count,
        sums["deadlines"].entries,
        round(count * sum(known) / len(known)) if known else 0,
        len(known),
        tuple(sums.values()),
        len(binding.slots),
        len(binding.lines) - len(binding.slots),
    )


async def _add(schema: Schema, places: Sequence[tuple[str, bytes]], indexes: dict[str, list[int]]) -> None:
    for (name, _), (members, weight) in zip(places, await _sizes(schema, [key for _, key in places]), strict=True):
        entry = indexes.setdefault(name, [0, 0, 0])
        for at, number in enumerate((weight > 0, members, weight)):
            entry[at] += number


async def _sizes(schema: Schema, keys: Sequence[bytes]) -> list[tuple[int, int]]:
    def plan(bound: Binding) -> Operation:
        return plan_weigh(bound, keys)

    status, outcome, binding = await ask("stats", schema, plan, cost=200)
    if status != b"ok":
        raise failure(schema, "", {}, outcome, binding)
    return [(members, weight) for members, weight in outcome[1]]
