"""Rows from the server: the calls that an answer takes, their parts merged, and results made of rows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import repeat
from typing import Any

import msgspec

from popoto_async.fields.base import Field
from popoto_async.fields.geo_field import UNITS, Coordinates, haversine
from popoto_async.outcomes import failure
from popoto_async.plan import ByDistance, Operation
from popoto_async.planning.merging import merge_key
from popoto_async.planning.read import ReadPlan, plan_select
from popoto_async.records import Texts, ask, fill_all
from popoto_async.schema import Binding, Schema

ADMISSION = 15
"""Estimated cost of planning a read, in microseconds of this process."""

Found = tuple[bytes, Texts]
"""One row of an answer: the record's key, and its stored texts in the order of the columns asked for."""


Answer = tuple[Any, bytes | None]
"""The outcome of one call, and the cursor of the next one; None after the last."""


class Selection(msgspec.Struct, frozen=True):
    """A planned question to the records of a class, and how long each of its round trips may take."""

    model: Any
    plan: ReadPlan
    timeout: float | None = None

    @property
    def schema(self) -> Schema:
        """The class described."""
        schema: Schema = self.model._meta
        return schema

    def planned(self, **changes: Any) -> Selection:
        """The same with another plan."""
        return Selection(self.model, msgspec.structs.replace(self.plan, **changes), self.timeout)

    async def _call(self, cursor: bytes | None, *, explain: bool = False) -> Answer:
        schema, plan = self.schema, self.plan

        def select(bound: Binding) -> Operation:
            return plan_select(bound, plan, cursor=cursor, explain=explain)

        status, outcome, binding = await ask("query", schema, select, cost=ADMISSION, timeout=self.timeout)
        if status == b"ok":
            return outcome, None
        if status != b"more":
            raise failure(schema, "", {}, outcome, binding)
        return outcome, (outcome[1] if explain else outcome)[3 if plan.mode == "count" else 4]

    async def calls(self, first: Answer | None = None, *, explain: bool = False) -> AsyncIterator[Any]:
        """The outcomes of the calls that it takes, each one's cursor given to the next. The first may be there."""
        outcome, cursor = first or await self._call(None, explain=explain)
        yield outcome
        while cursor is not None:
            outcome, cursor = await self._call(cursor, explain=explain)
            yield outcome

    def _page(self, outcome: Any) -> list[Found]:
        """The rows of one call."""
        keys, texts = outcome[1], outcome[2]
        width = len(self.plan.columns) if self.plan.mode == "rows" else 0
        rows = zip(*[iter(texts)] * width, strict=True) if width else repeat(())
        return list(zip(keys, rows, strict=False))

    async def pages(self, first: Answer | None = None) -> AsyncIterator[list[Found]]:
        """The rows as they come; those of a sorted answer that took several calls, merged, at the end.

        A record that moved between two of these calls may have come in both, and is there once.
        """
        plan = self.plan
        parts: dict[bytes, tuple[list[Any], Found]] = {}
        async for outcome in self.calls(first):
            page = self._page(outcome)
            marks = outcome[5] if len(outcome) > 5 else None
            if marks is None:
                yield page
            else:
                for item, mark in zip(page, marks, strict=True):
                    parts[item[0]] = merge_key(plan, item[0], mark), item
                if plan.limit is not None and len(parts) > plan.offset + plan.limit:
                    best = sorted(parts.values(), key=_first)[: plan.offset + plan.limit]
                    parts = {part[1][0]: part for part in best}
        if parts:
            yield [item for _, item in sorted(parts.values(), key=_first)[plan.offset :]]

    async def found(self) -> list[Found]:
        """All the rows."""
        first = await self._call(None)
        if first[1] is None:  # as with most answers: nothing to merge
            return self._page(first[0])
        return [row async for page in self.pages(first) for row in page]


def _first(part: tuple[list[Any], Found]) -> list[Any]:
    return part[0]


Distance = tuple[ByDistance, str] | None


def results(
    model: Any, found: list[Found], columns: tuple[str, ...], values: tuple[str, ...] | None, distance: Distance
) -> list[Any]:
    """What a query answers for rows of these columns: instances, or dicts of `values`."""
    schema: Schema = model._meta
    fields = [schema.fields[name] for name in columns if name in schema.fields]
    made = fill_all(model, found) if values is None else _dicts(fields[: len(values)], found)
    if distance is not None:
        measure = _measure(*distance, fields)
        for one, (_, row) in zip(made, found, strict=True):
            (one if values is not None else one.__dict__).update(measure(row))
    return made


def _dicts(fields: list[Field[Any]], found: list[Found]) -> list[dict[str, Any]]:
    dicts: list[dict[str, Any]] = [{} for _ in found]
    for field, column in zip(fields, zip(*[row for _, row in found], strict=True), strict=False):
        try:
            values = list(field.codec.decode_all(column))
        except Exception:  # of one of them: which?
            values = [
                None if raw is None else _read(field, key, raw) for (key, _), raw in zip(found, column, strict=True)
            ]
        for one, value in zip(dicts, values, strict=True):
            one[field.name] = None if value is None else field.plain(value)
    return dicts


def _read(field: Field[Any], key: bytes, raw: bytes) -> Any:
    try:
        return field.codec.decode(raw)
    except Exception as error:  # whatever a decoder raises, the bytes are not a value
        raise field.corrupt(key.decode(), raw) from error


def _measure(by: ByDistance, unit: str, fields: list[Field[Any]]) -> Callable[[Texts], dict[str, Any]]:
    """What tells the distance of a row, as results carry it."""
    centre = Coordinates(by.latitude, by.longitude)
    at = next(index for index, field in enumerate(fields) if field.name == by.field)

    def measure(row: Texts) -> dict[str, Any]:
        raw = row[at]
        metres = None if raw is None else haversine(centre, fields[at].codec.decode(raw))
        return {"_geo_distance": None if metres is None else metres / UNITS[unit], "_geo_distance_unit": unit}

    return measure
