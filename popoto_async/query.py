"""Queries: immutable values that are built up, then awaited or iterated. Only that sends anything."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, cast, overload

import msgspec
from msgspec.structs import replace

from popoto_async.declaration import unknown_field
from popoto_async.errors import InvalidLookup, ModelException, MultipleResults, NotAwaited, shorten
from popoto_async.expressions import And, Attr, Condition, Expression, Not, Or, Order, parse_order
from popoto_async.fields.base import Field
from popoto_async.fields.geo_field import UNITS, Coordinates, haversine
from popoto_async.pending import verb
from popoto_async.plan import ByDistance, ByKey, Operation, Test
from popoto_async.planning.read import (
    ReadPlan,
    all_of,
    checked,
    default_order,
    equalities,
    merge_key,
    order_by,
    own_field,
    parse_lookup,
    plan_select,
    to_test,
    unindexed,
)
from popoto_async.planning.relations import steps
from popoto_async.records import ask, failure, fill, load, not_found, require_concrete
from popoto_async.references import prefetch, tree
from popoto_async.schema import Binding, Schema

M = TypeVar("M")

ADMISSION = 15
"""Estimated cost of planning a read, in microseconds of this process."""


MOST = 2**53
"""More records than there can be: a greater limit or offset means as much, and Lua could not count it."""


class UnindexedFilterWarning(UserWarning):
    """A filter on a field without an index, with nothing else to narrow it: the whole class is read, in chunks."""


Found = tuple[bytes, list[bytes | None]]
"""One row of an answer: the record's key, and its stored texts in the order of the columns asked for."""


class Query(msgspec.Struct, Generic[M], frozen=True, eq=False):
    """What to find, in which order, how many. Every method returns a new query.

    `await q` gives a fresh list, `async for` streams; `first`, `last`, `get`, `count`, `exists`, `keys` answer less.
    One round trip while the server needs to examine no more than about 2,000 candidates; beyond that in continuations,
    each true for the records it returns, with no snapshot over all of them.
    """

    _model: type[Any]
    _tests: tuple[Test, ...] = ()
    _known: tuple[tuple[str, Any], ...] = ()
    _orders: tuple[Order, ...] = ()
    _offset: int = 0
    _limit: int | None = None
    _values: tuple[str, ...] | None = None
    _timeout: float | None = None
    _distance: tuple[ByDistance, str] | None = None
    _labels: tuple[str, ...] = ()
    _prefetch: tuple[str, ...] = ()

    @property
    def _schema(self) -> Schema:
        schema: Schema = self._model._meta
        return schema

    # Building ----------------------------------------------------------------------------------------------------

    def filter(self, /, *conditions: Expression | bool, **lookups: Any) -> Self:
        """The records that satisfy all of this too. `limit=`, `offset=`, `order_by=` and `values=` may be given, too.

        Raises InvalidLookup for an unknown field or lookup or a value of the wrong type, and MissingPartition.
        """
        schema, query = self._schema, self
        for name, method in (("limit", "limit"), ("offset", "offset"), ("order_by", "order_by"), ("values", "values")):
            if name in lookups:
                value = lookups.pop(name)
                arguments = value if isinstance(value, (tuple, list)) else (value,)
                if value is not None:
                    query = getattr(query, method)(*arguments)
        children: list[Expression] = []
        for condition in conditions:
            if not isinstance(condition, Expression):
                raise InvalidLookup(
                    f"{schema.model}: filter() takes conditions, not {shorten(condition)}",
                    model=schema.model,
                    value=condition,
                    hint=f"compare fields of the class: {schema.model}.{next(iter(schema.fields))} == …",
                )
            children.append(_check(schema, condition))
        children.extend(parse_lookup(schema, name, value) for name, value in lookups.items())
        if not children:
            return query
        expression = And(tuple(children))
        known = dict(query._known)
        test = to_test(schema, expression, known)
        known.update(equalities(expression))
        return replace(
            query,
            _tests=(*query._tests, test),
            _known=tuple(known.items()),
            _distance=_distance(schema, expression) or query._distance,
            _labels=(*query._labels, *(f"{name}={shorten(value)}" for name, value in lookups.items())),
        )

    def order_by(self, *fields: str | Attr[Any]) -> Self:
        """Ordered by these fields, "-" before a name for descending; nulls last either way, ties by record key."""
        orders = []
        given: tuple[Any, ...] = fields
        for name in given:
            if isinstance(name, Attr):
                order = Order(own_field(self._schema, name.name, name.model).name)
            elif isinstance(name, str):
                order = parse_order(name)
            else:
                raise self._takes("order_by() takes field names", name)
            order_by(self._schema, order, dict(self._known))
            orders.append(order)
        return replace(self, _orders=tuple(orders))

    def limit(self, count: int | None) -> Self:
        """At most this many; None for all."""
        return replace(self, _limit=None if count is None else self._natural("limit", count))

    def offset(self, count: int) -> Self:
        """Without the first ones."""
        return replace(self, _offset=self._natural("offset", count))

    def values(self, *fields: str) -> Query[dict[str, Any]]:
        """Dicts of these fields (all of them, without any) in place of instances; only these are read."""
        names = fields or tuple(name for name in self._schema.fields if not name.startswith("_"))
        for name in names:
            given: Any = name
            if not isinstance(given, str):
                raise self._takes("values() takes field names", given)
            if name not in self._schema.fields:
                raise unknown_field(self._schema.model, name, self._schema.fields)
        return cast("Query[dict[str, Any]]", replace(self, _values=tuple(names)))

    def prefetch(self, *relations: str) -> Self:
        """Load what these relations lead to with the rows: `"restaurant"`, `"restaurant__owner"`.

        One more round trip for each level, however many rows there are.
        """
        for path in relations:
            if not isinstance(path, str):
                raise InvalidLookup(f"{self._schema.model}: prefetch() takes names of relations, not {shorten(path)}")
            steps(self._schema, path)
        return replace(self, _prefetch=tuple(dict.fromkeys((*self._prefetch, *relations))))

    def timeout(self, seconds: float | None) -> Self:
        """Each round trip of the answer within this time, else TimedOut; None for the default of the database."""
        return replace(self, _timeout=seconds)

    def __getitem__(self, item: slice) -> Self:
        """A part of the answer: `q[10:20]`."""
        if not isinstance(item, slice):
            raise self._takes("a query takes slices", item, hint="await q.offset(n).first()")
        if item.step not in (None, 1):
            raise self._takes("a query takes slices forward from 0", item)
        start = 0 if item.start is None else self._natural("the start of a slice", item.start)
        stop = None if item.stop is None else self._natural("the end of a slice", item.stop)
        length = None if stop is None else max(0, stop - start)
        if self._limit is not None:
            left = max(0, self._limit - start)
            length = left if length is None else min(length, left)
        return replace(self, _offset=self._offset + start, _limit=length)

    def _natural(self, name: str, count: Any) -> int:
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise self._takes(f"{name} takes a whole number of 0 or more", count)
        return min(count, MOST)

    def _takes(self, what: str, given: Any, hint: str | None = None) -> InvalidLookup:
        model = self._schema.model
        return InvalidLookup(f"{model}: {what}, not {shorten(given)}", model=model, value=given, hint=hint)

    # Answers -----------------------------------------------------------------------------------------------------

    @verb
    async def all(self) -> list[M]:
        """The records (or dicts, after `values`)."""
        plan = self._plan("rows")
        build = self._builder(plan)
        rows = [build(key, row) async for page in self._pages(plan) for key, row in page]
        await self._complete(rows)
        return rows

    def __await__(self) -> Generator[Any, Any, list[M]]:
        return self.all().__await__()

    async def __aiter__(self) -> AsyncIterator[M]:
        plan = self._plan("rows")
        build = self._builder(plan)
        async for page in self._pages(plan):
            rows = [build(key, row) for key, row in page]
            await self._complete(rows)
            for one in rows:
                yield one

    @verb
    async def first(self) -> M | None:
        """The first, or None."""
        found: list[M] = await (self if self._limit == 0 else self.limit(1)).all()
        return found[0] if found else None

    @verb
    async def last(self) -> M | None:
        """The last, or None. One round trip; two where the order has nulls; all rows of a limited query."""
        if self._limit is not None:
            found: list[M] = await self.all()
            return found[-1] if found else None
        orders = self._orders or default_order(self._schema, self._test)
        if any(self._schema.fields[order.field].null for order in orders) or self._distance:
            count = await self.count()
            return await self.offset(self._offset + count - 1).first() if count > 0 else None
        if self._offset and not await self.exists():
            return None
        if not orders:
            return await self._backwards_by_key()
        flipped = tuple(replace(order, descending=not order.descending) for order in orders)
        return await replace(self, _orders=flipped, _offset=0).first()

    @verb
    async def get(self, /, **lookups: Any) -> M | None:
        """The one record that matches, or None; MultipleResults if there are more. One round trip."""
        schema = self._schema
        if not self._tests and self._values is None and not self._prefetch and lookups.keys() == schema.key_names:
            one: M | None = await load(self._model, lookups, self._timeout)
            return one
        found: list[M] = await self.filter(**lookups).limit(2).all()
        if len(found) > 1:
            raise MultipleResults(
                f"{schema.model}: more than one record matches {_shown(lookups, self._labels)}",
                model=schema.model,
                hint="give more of the key, or use filter()",
            )
        return found[0] if found else None

    @verb
    async def get_or_raise(self, /, **lookups: Any) -> M:
        """As `get`, but NotFound in place of None."""
        found = await self.get(**lookups)
        if found is None:
            raise not_found(self._schema, _shown(lookups, self._labels))
        return found

    @verb
    async def count(self) -> int:
        """How many there are, counted on the server."""
        total = 0
        async for counted in self._calls(self._plan("count")):
            total += counted[1]
        return total

    @verb
    async def exists(self) -> bool:
        """Whether there is any."""
        plan = replace(self._plan("keys"), limit=1 if self._limit is None else min(self._limit, 1))
        async for page in self._pages(plan):
            if page:
                return True
        return False

    @verb
    async def keys(self) -> list[str]:
        """The keys of the records, in order."""
        return [key.decode() async for page in self._pages(self._plan("keys")) for key, _ in page]

    # Planning ----------------------------------------------------------------------------------------------------

    @property
    def _test(self) -> Test:
        return all_of(self._tests)

    def _plan(self, mode: str) -> ReadPlan:
        schema, test, known = self._schema, self._test, dict(self._known)
        require_concrete(schema)
        if self._prefetch and self._values is not None:
            raise InvalidLookup(
                f"{schema.model}: values() gives dicts, in which nothing can be prefetched",
                hint="leave one of them out",
            )
        slow = unindexed(test)
        if slow:
            names = ", ".join(f"{schema.model}.{name}" for name in slow)
            warnings.warn(
                f"{names} has no index: the whole class is read. Declare it with indexed=True, or narrow the query",
                UnindexedFilterWarning,
                stacklevel=3,
            )
        orders: list[tuple[Any, bool]] = []
        if self._distance and not self._orders:
            orders.append((self._distance[0], False))
        elif mode != "count":
            wanted = self._orders or default_order(schema, test)
            orders.extend((order_by(schema, order, known), order.descending) for order in wanted)
        columns = schema.columns if self._values is None else self._values
        if self._distance and self._distance[0].field not in columns:
            columns = (*columns, self._distance[0].field)
        return ReadPlan(test, tuple(orders), mode, self._offset, self._limit, columns if mode == "rows" else ())

    async def _backwards_by_key(self) -> M | None:
        plan = replace(self._plan("rows"), limit=1, offset=0, orders=((ByKey(), True),))
        build = self._builder(plan)
        async for page in self._pages(plan):
            for key, row in page:
                one = build(key, row)
                await self._complete([one])
                return one
        return None

    async def _complete(self, rows: list[M]) -> None:
        if self._prefetch and rows:
            await prefetch(rows, tree(self._prefetch), self._timeout)

    # Executing ---------------------------------------------------------------------------------------------------

    async def _calls(self, plan: ReadPlan) -> AsyncIterator[Any]:
        """The outcomes of the calls that it takes, each one's cursor given to the next."""
        schema = self._schema
        cursor: bytes | None = None
        at = 3 if plan.mode == "count" else 4

        def select(bound: Binding) -> Operation:
            return plan_select(bound, plan, offset=plan.offset, limit=plan.limit, cursor=cursor)

        while True:
            status, outcome, binding = await ask("query", schema, select, cost=ADMISSION, timeout=self._timeout)
            if status not in (b"ok", b"more"):
                raise failure(schema, "", {}, outcome, binding)
            yield outcome
            if status == b"ok":
                return
            cursor = outcome[at]

    async def _pages(self, plan: ReadPlan) -> AsyncIterator[list[Found]]:
        """The rows as they come; those of a sorted answer that took several calls, merged, at the end."""
        parts: list[tuple[list[Any], Found]] = []
        async for outcome in self._calls(plan):
            keys, rows = outcome[1], outcome[2]
            page = list(zip(keys, rows or [[]] * len(keys), strict=True))
            marks = outcome[5] if len(outcome) > 5 else None
            if marks is None:
                yield page
            else:
                parts.extend((merge_key(plan, item[0], mark), item) for item, mark in zip(page, marks, strict=True))
                parts.sort(key=_first)
                if plan.limit is not None:
                    del parts[plan.offset + plan.limit :]
        if parts:
            yield [item for _, item in parts[plan.offset :]]

    def _builder(self, plan: ReadPlan) -> Callable[[bytes, list[bytes | None]], M]:
        """What makes a result of a row."""
        schema, model = self._schema, self._model
        fields = [schema.fields[name] for name in plan.columns if name in schema.fields]
        distance = _measure(self._distance, fields)
        if self._values is None:

            def build_instance(key: bytes, row: list[bytes | None]) -> Any:
                instance = fill(model, key.decode(), row)
                if distance:
                    instance.__dict__.update(distance(row))
                return instance

            return build_instance
        shown = fields[: len(self._values)]

        def build_dict(key: bytes, row: list[bytes | None]) -> Any:
            values = {
                field.name: None if raw is None else field.plain(_read(field, key, raw))
                for field, raw in zip(shown, row, strict=False)
            }
            return {**values, **distance(row)} if distance else values

        return build_dict

    # Used without await ------------------------------------------------------------------------------------------

    def _refuse(self) -> NoReturn:
        raise NotAwaited(
            f"a query of {self._schema.model} was used before it was awaited",
            hint=f"write: rows = await {self._schema.model}.query.filter(…), or: async for row in …",
        )

    if not TYPE_CHECKING:  # checkers find such uses when there is nothing to find

        def __bool__(self) -> bool:
            self._refuse()

        def __len__(self) -> int:
            self._refuse()

        def __iter__(self) -> NoReturn:
            self._refuse()

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            self._refuse()

    def __repr__(self) -> str:
        return f"<Query of {self._schema.model}: {', '.join(self._labels) or 'all'}>"


class QueryDescriptor:
    """`Model.query`: an empty query of the class it is read from."""

    @overload
    def __get__(self, instance: None, owner: type[M]) -> Query[M]: ...
    @overload
    def __get__(self, instance: object, owner: type[M]) -> NoReturn: ...
    def __get__(self, instance: object | None, owner: type[M]) -> Query[M]:
        """The query."""
        if instance is not None:
            raise ModelException(f"query belongs to the class: {owner.__name__}.query", model=owner.__name__)
        return Query(owner)


def _read(field: Field[Any], key: bytes, raw: bytes) -> Any:
    try:
        return field.decode(raw)
    except Exception as error:  # whatever a decoder raises, the bytes are not a value
        raise field.corrupt(key.decode(), raw) from error


def _first(part: tuple[list[Any], Found]) -> list[Any]:
    return part[0]


def _shown(lookups: dict[str, Any], labels: tuple[str, ...]) -> str:
    return ", ".join([*labels, *(f"{name}={shorten(value)}" for name, value in lookups.items())]) or "anything"


def _check(schema: Schema, expression: Expression) -> Expression:
    if isinstance(expression, Condition):
        return checked(schema, expression)
    if isinstance(expression, Not):
        _check(schema, expression.child)
    elif isinstance(expression, (And, Or)):
        for child in expression.children:
            _check(schema, child)
    return expression


def _distance(schema: Schema, expression: And) -> tuple[ByDistance, str] | None:
    lookups: dict[str, dict[str, Any]] = {}
    for child in expression.children:
        if isinstance(child, Condition):
            lookups.setdefault(child.field, {})[child.lookup] = child.value
    found = [wanted for name, asked in lookups.items() if (wanted := schema.fields[name].distances(asked))]
    return found[0] if found else None


def _measure(distance: tuple[ByDistance, str] | None, fields: list[Field[Any]]) -> Any:
    """What tells the distance of a row, as results carry it."""
    if distance is None:
        return None
    by, unit = distance
    centre = Coordinates(by.latitude, by.longitude)
    at = next(index for index, field in enumerate(fields) if field.name == by.field)

    def measure(row: list[bytes | None]) -> dict[str, Any]:
        raw = row[at]
        metres = None if raw is None else haversine(centre, fields[at].decode(raw))
        return {"_geo_distance": None if metres is None else metres / UNITS[unit], "_geo_distance_unit": unit}

    return measure
