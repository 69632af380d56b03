"""Schema + conditions → operation: what a query asks becomes tests of indexes, and these become a select. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from popoto_async.errors import InvalidLookup, MissingPartition, nearest
from popoto_async.expressions import And, Condition, Expression, Not, Or, Order, Through
from popoto_async.fields.base import Field
from popoto_async.fields.relationship import relation
from popoto_async.keys import tail
from popoto_async.plan import (
    AllOf,
    Among,
    AnyOf,
    ByDistance,
    ByKey,
    ByStored,
    Claimed,
    Everything,
    Guard,
    KeyBegins,
    KeyIs,
    Matches,
    Near,
    NoneOf,
    Nothing,
    OneOf,
    Operation,
    OrderBy,
    Place,
    Points,
    Range,
    Refers,
    Stored,
    Test,
    Via,
)
from popoto_async.planning.labels import label
from popoto_async.planning.ranges import is_point, narrowed
from popoto_async.schema import Binding, Schema

BUDGET = 1500
"""Units of work (`view.lua`) that one call does at most, of about 2 µs each; fewer of them in large collections."""

COUNT_BUDGET = 6000
"""The same for a count, which reads no rows."""

MATCH_COST = 10
"""Server time in microseconds to look up one record in the indexes that a test names."""

EXPECTED_ROWS = 120
"""Rows that a query without a limit is expected to return, when calls are filled."""

Known = Mapping[str, Any]


# Conditions ----------------------------------------------------------------------------------------------------------


def parse_lookup(schema: Schema, name: str, value: Any) -> Expression:
    """The condition of a keyword: `rating__gte=4`, `location_radius=10`, `restaurant__owner__name="Ann"`.

    InvalidLookup names the nearest valid ones.
    """
    if name in schema.fields:
        return checked(schema, Condition(name, "eq", value))
    head, _, lookup = name.partition("__")
    step = relation(schema.fields, head)
    if step and lookup and lookup not in step.lookups:
        return Through(head, parse_lookup(step.target._meta, lookup, value), step.model)
    if lookup and head in schema.fields:
        return checked(schema, Condition(head, lookup, value))
    for field in schema.fields.values():
        for parameter in field.parameters:
            if name == f"{field.name}_{parameter}":
                return Condition(field.name, parameter, value)
    known = [*schema.fields, *(f"{f.name}_{p}" for f in schema.fields.values() for p in f.parameters)]
    raise InvalidLookup(
        f"{schema.model} has no field or lookup {name!r}",
        model=schema.model,
        field=head,
        value=value,
        hint=nearest(head, known),
    )


def own_field(schema: Schema, name: str, model: str | None) -> Field[Any]:
    """The field of this name; InvalidLookup where there is none, or where it was taken from another model."""
    field = schema.fields.get(name)
    if field is None or model not in (None, field.model):
        raise InvalidLookup(
            f"{schema.model} has no field {model}.{name}" if model else f"{schema.model} has no field {name!r}",
            model=schema.model,
            field=name,
            hint=nearest(name, schema.fields),
        )
    return field


def checked(schema: Schema, condition: Condition) -> Condition:
    """The condition, if it is one of this model's and its field answers it."""
    field = own_field(schema, condition.field, condition.model)
    if condition.lookup not in field.lookups or condition.lookup in field.parameters:
        answers = [lookup for lookup in field.lookups if lookup not in field.parameters]
        raise InvalidLookup(
            f"{schema.model}.{field.name} ({type(field).__name__}) has no lookup {condition.lookup!r}",
            model=schema.model,
            field=field.name,
            value=condition.value,
            hint=nearest(condition.lookup, answers) if answers else "this kind of field answers no filter",
        )
    return condition


def equalities(expression: Expression) -> dict[str, Any]:
    """The values that fields must equal for a conjunction to hold."""
    if isinstance(expression, Condition):
        return {expression.field: expression.value} if expression.lookup == "eq" else {}
    found: dict[str, Any] = {}
    if isinstance(expression, And):
        for child in expression.children:
            if not isinstance(child, Condition):
                found.update(equalities(child))
            elif child.lookup == "eq":
                found[child.field] = child.value
    return found


def partition_tail(schema: Schema, field: Field[Any], known: Known) -> str:
    """The partition that a query is about. MissingPartition names what the query doesn't say."""
    if not field.partition:
        return ""
    missing = [name for name in field.partition if name not in known]
    if missing:
        names = ", ".join(missing)
        raise MissingPartition(
            f"{schema.model}.{field.name} is partitioned by {', '.join(field.partition)}: the query must give {names}",
            model=schema.model,
            field=field.name,
            hint=f"filter({missing[0]}=…)",
        )
    parts = []
    for name in field.partition:
        other, value = schema.fields[name], known[name]
        parts.append(other.part(None if value is None else other.comparable("eq", value)))
    return tail(parts)


def to_test(schema: Schema, expression: Expression, known: Known) -> Test:
    """What an expression wants of the server, where `known` fields have these values anyway."""
    if isinstance(expression, Not):
        return NoneOf(to_test(schema, expression.child, known))
    if isinstance(expression, Or):
        return OneOf(tuple(to_test(schema, child, known) for child in expression.children))
    if isinstance(expression, (Condition, Through)):
        expression = And((expression,))
    assert isinstance(expression, And)
    known = {**known, **equalities(expression)}
    tests: list[Test] = []
    groups: list[dict[str, dict[str, Any]]] = [{}]
    tests.extend(_vias(schema, expression.children))
    for child in expression.children:
        if isinstance(child, Through):
            continue
        if not isinstance(child, Condition):
            tests.append(to_test(schema, child, known))
            continue
        for group in groups:
            lookups = group.setdefault(child.field, {})
            if child.lookup not in lookups:
                break
        else:
            groups.append({child.field: (lookups := {})})
        lookups[child.lookup] = child.value
    for group in groups:
        for name, lookups in group.items():
            field = schema.fields[name]
            tests.append(field.tests(lookups, partition_tail(schema, field, known)))
    tests.extend(_composites(schema, known if expression.children else {}))
    return all_of(tests)


def _vias(schema: Schema, children: Iterable[Expression]) -> list[Test]:
    """Tests of the records that relations lead to; one record has to satisfy all that is asked through one relation."""
    asked: dict[str, list[Expression]] = {}
    for child in children:
        if isinstance(child, Through):
            checked(schema, Condition(child.field, "eq", None, child.model))
            asked.setdefault(child.field, []).append(child.child)
    found: list[Test] = []
    for name, inner in asked.items():
        step = relation(schema.fields, name)
        assert step is not None, "only relations are gone through"
        target: Schema = step.target._meta
        if target.options.database != schema.options.database:
            raise InvalidLookup(
                f"{schema.model}.{name} leads to another database, where no query of this one can go",
                model=schema.model,
                field=name,
                hint=f"find the records of {target.model} first, then filter({name}__in=…)",
            )
        found.append(Via(step.index, name, target, to_test(target, And(tuple(inner)), {})))
    return found


def all_of(tests: Iterable[Test]) -> Test:
    """The conjunction of tests, those of conjunctions among them side by side."""
    flat: list[Test] = []
    for test in tests:
        flat.extend(test.children if isinstance(test, AllOf) else () if isinstance(test, Everything) else (test,))
    flat = narrowed(flat)
    return flat[0] if len(flat) == 1 else AllOf(tuple(flat)) if flat else Everything()


def _composites(schema: Schema, known: Known) -> list[Test]:
    """Tests of indexes over several fields, all of whose values are known: more selective than each alone."""
    found: list[Test] = []
    if len(schema.keys) > 1 and all(known.get(field.name) is not None for field in schema.keys):
        parts = (field.part(field.comparable("eq", known[field.name])) for field in schema.keys)
        found.append(KeyIs((tail(parts),)))
    for composite in schema.composites:
        values = [known.get(name) for name in composite.names]
        if all(value is not None for value in values):
            coerced = [f.comparable("eq", value) for f, value in zip(composite.fields, values, strict=True)]
            found.append(composite.test(coerced))
    return found


def unindexed(test: Test) -> list[str]:
    """The fields without an index on which the whole class would have to be read; none where an index narrows it."""
    return [] if _narrows(test) else sorted(_stored(test))


def _narrows(test: Test) -> bool:
    if isinstance(test, AllOf):
        return any(_narrows(child) for child in test.children)
    if isinstance(test, OneOf):
        return all(_narrows(child) for child in test.children)
    if isinstance(test, Via):
        return _narrows(test.child)
    return isinstance(test, (Among, AnyOf, Points, Range, Refers, KeyIs, KeyBegins, Matches, Claimed, Near, Nothing))


def _stored(test: Test) -> set[str]:
    if isinstance(test, (AllOf, OneOf)):
        return set().union(*(_stored(child) for child in test.children))
    if isinstance(test, NoneOf):
        return _stored(test.child)
    if isinstance(test, Via):
        return {f"{test.field}__{name}" for name in _stored(test.child)}
    return {test.field} if isinstance(test, Stored) else set()


# Orders --------------------------------------------------------------------------------------------------------------


def default_order(schema: Schema, test: Test) -> tuple[Order, ...]:
    """Without order_by: Meta's order, else the single sorted range, else none (the record key)."""
    if schema.options.order_by:
        return schema.options.order_by
    terms = test.children if isinstance(test, AllOf) else (test,)
    ranges = {term.index for term in terms if isinstance(term, Range) and not is_point(term)}
    if len(ranges) == 1:
        owner = schema.owners[next(iter(ranges))]
        if isinstance(owner, Field):
            return (Order(owner.name),)
    return ()


def order_by(schema: Schema, order: Order, known: Known) -> OrderBy:
    """How the server orders by a field. InvalidLookup or MissingPartition where it can't."""
    field = own_field(schema, order.field, None)
    if field.codec.compare == "bytes":
        raise InvalidLookup(
            f"{schema.model}.{field.name}: a {field.type.__name__} has no order", model=schema.model, field=field.name
        )
    return field.order(partition_tail(schema, field, known))


# To the wire ---------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes tests as the maps of a select, collecting their binary values."""

    def __init__(self, binding: Binding, *, labels: bool = False) -> None:
        self.binding = binding
        self.labels = labels
        self.values: list[bytes] = []
        self.also: dict[str, None] = {}
        self.relied: dict[tuple[str, str], dict[str, None]] = {}

    def key(self, index: str, where: str) -> str:
        """The sorted set of an index at a tail."""
        said = self.binding.definitions.get(index)
        if said is not None:
            keys = self.binding.keys
            self.relied.setdefault((keys.slots, keys.klass), {})[said] = None
        return self.binding.prefixes[index] + where

    def node(self, test: Test) -> dict[str, Any]:
        """A test as the select script reads it."""
        node: dict[str, Any] = _NODES[type(test)](self, test)
        if self.labels:
            node["label"] = label(test)
        return node

    def children(self, name: str, tests: Sequence[Test]) -> dict[str, Any]:
        """A combination."""
        return {"t": name, "n": [self.node(child) for child in tests]}

    def range(self, test: Range) -> dict[str, Any]:
        """A range, with what decides shared scores."""
        node: dict[str, Any] = {"t": "range", "z": self.key(test.index, test.tail), "lo": test.low, "hi": test.high}
        if test.exact:
            node.update(tie=self.key(test.tie, test.tail), f=test.field, c=test.compare, x=test.exact)
        return node

    def refers(self, test: Refers) -> dict[str, Any]:
        """Who refers to some records, under the key that these had before, too."""
        target = self.binding.other(test.target).keys
        self.also[target.klass] = None
        sets = [self.key(test.index, key) for key in test.tails]
        return {"t": "any", "z": sets, "rel": self.key(test.index, ""), "alias": target.aliases}

    def via(self, test: Via) -> dict[str, Any]:
        """What the record that a relation leads to has to satisfy."""
        here, there = self.binding, self.binding.other(test.target)
        self.also[there.keys.klass] = None
        self.binding = there
        inner = self.node(test.child)
        self.binding = here
        model = {"class": there.keys.klass, "exp": there.keys.deadlines, "alias": there.keys.aliases}
        return {"t": "via", "f": test.field, "rel": self.key(test.index, ""), "m": model, "n": inner}

    def near(self, test: Near) -> dict[str, Any]:
        """An area."""
        node: dict[str, Any] = {
            "z": self.key(test.index, ""),
            "pole": self.key(test.pole, ""),
            "f": test.field,
            "lat": test.latitude,
            "lon": test.longitude,
        }
        if test.box is None:
            return {"t": "near", "r": test.radius, **node}
        return {"t": "box", "w": test.box[0], "h": test.box[1], **node}

    def matches(self, test: Matches) -> dict[str, Any]:
        """Texts, and where those that match are found."""
        node: dict[str, Any] = {"t": "text", "op": test.op, "v": test.text}
        node.update({"part": test.part, "base": self.binding.keys.records} if test.part else {"f": test.field})
        if test.listing:
            node["h" if test.claims else "z"] = self.key(test.index, "")
            node.update(listing=self.key(test.listing, ""), p=test.begins, mirror=test.mirror)
        return node

    def stored(self, test: Stored) -> dict[str, Any]:
        """A comparison with stored texts."""
        first = len(self.values)
        self.values.extend(test.values)
        return {
            "t": "stored",
            "f": test.field,
            "c": test.compare,
            "op": test.op,
            "v": list(range(first, len(self.values))),
        }

    def place(self, place: Place) -> dict[str, Any]:
        """The place that a page goes on after."""
        at: list[int | bool] = []
        for text in place.texts:
            at.append(text is not None and len(self.values))
            if text is not None:
                self.values.append(text)
        return {"key": place.key, "at": at, "scores": [score or False for score in place.scores]}

    def order(self, by: OrderBy, descending: bool) -> dict[str, Any]:
        """An order."""
        if isinstance(by, ByKey):
            return {"by": "key", "desc": descending}
        if isinstance(by, ByStored):
            return {"by": "stored", "f": by.field, "c": by.compare, "desc": descending}
        if isinstance(by, ByDistance):
            return {"by": "distance", "f": by.field, "lat": by.latitude, "lon": by.longitude}
        found = {"by": "index", "z": self.key(by.index, by.tail), "f": by.field, "c": by.compare, "desc": descending}
        if by.nulls:
            found["nulls"] = self.key(by.nulls, by.tail)
        if by.tie:
            found["tie"] = self.key(by.tie, by.tail)
        return found


_NODES: dict[type[Test], Any] = {
    Everything: lambda writer, test: {"t": "all"},
    Nothing: lambda writer, test: {"t": "none"},
    AnyOf: lambda writer, test: {"t": "any", "z": [writer.key(test.index, where) for where in test.tails]},
    Range: _Writer.range,
    KeyIs: lambda writer, test: {"t": "keys", "k": [writer.binding.keys.records + part for part in test.parts]},
    Claimed: lambda writer, test: {"t": "claim", "h": writer.key(test.index, ""), "v": list(test.tails)},
    KeyBegins: lambda writer, test: {"t": "keyed", "p": writer.binding.keys.records + test.text},
    Matches: _Writer.matches,
    Near: _Writer.near,
    Refers: _Writer.refers,
    Via: _Writer.via,
    Stored: _Writer.stored,
    AllOf: lambda writer, test: writer.children("and", test.children),
    OneOf: lambda writer, test: writer.children("or", test.children),
    Points: lambda writer, test: {"t": "points", "z": writer.key(test.index, test.tail), "s": test.scores},
    Among: lambda writer, test: {"t": "among", "n": writer.node(test.choices), "s": writer.node(test.stored)},
    NoneOf: lambda writer, test: {"t": "not", "n": writer.node(test.child)},
}


class ReadPlan(msgspec.Struct, frozen=True):
    """What a query asks of the server."""

    test: Test
    orders: tuple[tuple[OrderBy, bool], ...]
    mode: str
    offset: int
    limit: int | None
    columns: tuple[str, ...]
    after: Place | None = None
    """Only records that stand after this place."""


def plan_select(
    binding: Binding,
    plan: ReadPlan,
    *,
    cursor: bytes | None = None,
    explain: bool = False,
) -> Operation:
    """One call's part of a query; with `explain`, one that also reports what it did."""
    writer = _Writer(binding, labels=explain)
    body: dict[str, Any] = {
        "mode": plan.mode,
        "where": writer.node(plan.test),
        "offset": plan.offset,
        "limit": -1 if plan.limit is None else plan.limit,
        "fields": plan.columns,
        "budget": COUNT_BUDGET if plan.mode == "count" else BUDGET,
    }
    if plan.after is not None:
        body["after"] = writer.place(plan.after)
    if plan.orders:
        body["order"] = [writer.order(by, descending) for by, descending in plan.orders]
    if writer.relied:
        body["relies"] = [[*keys, *said] for keys, said in writer.relied.items()]
    if cursor is not None:
        body["cursor"] = msgspec.Raw(cursor)
    rows = EXPECTED_ROWS if plan.limit is None else min(plan.limit, BUDGET // 4)
    cost = 60 + (6 * rows if plan.mode == "rows" else 200)
    if explain:
        body["explain"] = True
    # What a query finds through relations depends on other models' records: those may be written in between.
    join = None if cursor or explain or writer.also else plan
    size = sum(map(len, writer.values))
    return Operation(
        "select", binding.layout, body, tuple(writer.values), False, cost, size, join, also=tuple(writer.also)
    )


def plan_guard(binding: Binding, test: Test) -> Guard:
    """A test as a condition of changes."""
    writer = _Writer(binding)
    wire = msgspec.msgpack.encode(writer.node(test))
    return Guard(wire, tuple(writer.values), tuple(writer.also))


def plan_matching(binding: Binding, guard: Guard, key: str, change: Operation) -> Operation:
    """A change of one record, to be made only if the record satisfies a condition at that moment."""
    cost, also = change.cost + MATCH_COST, (*guard.also, *change.also)
    return Operation(
        "matching", binding.layout, {"key": key}, (), True, cost, change.size, steps=(change,), also=also, guard=guard
    )
