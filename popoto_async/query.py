"""Queries: immutable values that are built up, then awaited or iterated. Only that sends anything."""

from __future__ import annotations

import sys
import warnings
from collections.abc import AsyncIterator, Collection, Generator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, cast, overload

import msgspec
from msgspec.structs import replace

from popoto_async.errors import InvalidLookup, ModelException, MultipleResults, NotAwaited, shorten
from popoto_async.expressions import Attr, Expression, Order, Q, parse_order
from popoto_async.pending import verb
from popoto_async.plan import ByDistance, ByKey, Test
from popoto_async.planning.read import (
    ReadPlan,
    all_of,
    default_order,
    equalities,
    order_by,
    own_field,
    to_test,
    unindexed,
)
from popoto_async.planning.relations import steps
from popoto_async.queries import asking, changing, collecting, explaining, paging
from popoto_async.queries.explaining import Explanation
from popoto_async.queries.paging import Page
from popoto_async.queries.selecting import Found, Selection, results
from popoto_async.records import load, not_found, require_concrete
from popoto_async.references import prefetch, tree
from popoto_async.schema import Schema

M = TypeVar("M")


_CALLS = ("limit", "offset", "order_by", "values")
"""Keywords of `filter` that mean what the methods of these names do."""

MOST = 2**53
"""More records than there can be: a greater limit or offset means as much, and Lua could not count it."""


def _level_of_caller() -> int:
    """The `stacklevel` by which a warning is about the line that called this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == __name__.partition(".")[0]:
        level, frame = level + 1, frame.f_back
    return level


class UnindexedFilterWarning(UserWarning):
    """A filter on a field without an index, with nothing else to narrow it: the whole class is read, in chunks."""


class Query(msgspec.Struct, Generic[M], frozen=True, eq=False):
    """What to find, in which order, how many. Every method returns a new query.

    `await q` gives a fresh list, `async for` streams; `first`, `last`, `get`, `count`, `exists`, `keys` answer less.
    One round trip while the answer costs the server no more than 1,500 units of about 2 µs, which are some 300 rows or
    1,000 candidates that are looked at and passed over; beyond that in continuations, each true for the records it
    returns, with no snapshot over all of them. `explain` tells the cost.
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
    _asked: tuple[Expression, ...] = ()
    _prefetch: tuple[str, ...] = ()

    @property
    def _schema(self) -> Schema:
        schema: Schema = self._model._meta
        return schema

    @property
    def _written(self) -> str:
        return f"{self._schema.model}.query"

    # Building ----------------------------------------------------------------------------------------------------

    def filter(self, /, *conditions: Expression | bool, **lookups: Any) -> Self:
        """The records that satisfy all of this too. `limit=`, `offset=`, `order_by=` and `values=` may be given, too.

        Raises InvalidLookup for an unknown field or lookup or a value of the wrong type, and MissingPartition.
        """
        called = [] if lookups.keys().isdisjoint(_CALLS) else [(name, lookups.pop(name, None)) for name in _CALLS]
        query = self._narrowed(asking.all_of(self._schema, conditions, lookups.items()))
        for name, value in called:
            if value is not None:
                several = name in ("order_by", "values") and isinstance(value, (tuple, list))
                query = getattr(query, name)(*(value if several else (value,)))
        return query

    def exclude(self, /, *conditions: Expression | bool, **lookups: Any) -> Self:
        """Without the records that satisfy all of this: `exclude(a=1, b=2)` is not (a = 1 and b = 2).

        A null equals nothing but null, so `exclude(a=1)` keeps the records in which `a` is null.
        """
        return self._narrowed(asking.resolved(self._schema, ~Q(*conditions, **lookups)))

    def _narrowed(self, expression: Expression | None) -> Self:
        if expression is None:
            return self
        schema, known = self._schema, dict(self._known)
        test = to_test(schema, expression, known)
        known.update(equalities(expression))
        return replace(
            self,
            _tests=(*self._tests, test),
            _known=tuple(known.items()),
            _distance=asking.distance(schema, expression) or self._distance,
            _asked=(*self._asked, expression),
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
            own_field(self._schema, name, None)
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

    def _natural(self, name: str, count: Any, *, least: int = 0) -> int:
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise self._takes(f"{name} takes a whole number of {least} or more", count)
        return min(count, MOST)

    def _takes(self, what: str, given: Any, hint: str | None = None) -> InvalidLookup:
        model = self._schema.model
        return InvalidLookup(f"{model}: {what}, not {shorten(given)}", model=model, value=given, hint=hint)

    # Answers -----------------------------------------------------------------------------------------------------

    @verb
    async def all(self) -> list[M]:
        """The records (or dicts, after `values`)."""
        return await self._rows()

    async def _rows(self) -> list[M]:
        selection = self._selection("rows")
        return await self._built(selection, await selection.found())

    def __await__(self) -> Generator[Any, Any, list[M]]:
        return self._rows().__await__()

    async def __aiter__(self) -> AsyncIterator[M]:
        selection = self._selection("rows")
        async for page in selection.pages():
            for one in await self._built(selection, page):
                yield one

    @verb
    async def first(self) -> M | None:
        """The first, or None."""
        found: list[M] = await (self if self._limit == 0 else self.limit(1)).all()
        return found[0] if found else None

    @verb
    async def last(self) -> M | None:
        """The last, or None. One round trip; two where the order has nulls or after an offset; all rows of a limit."""
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
        limited = self._limit is not None or self._offset
        plain = not (self._tests or self._prefetch or limited) and self._values is None
        if plain and lookups.keys() == schema.key_names:
            one: M | None = await load(self._model, lookups, self._timeout)
            return one
        found: list[M] = await self.filter(**lookups)[:2].all()
        if len(found) > 1:
            raise MultipleResults(
                f"{schema.model}: more than one record matches {self._shown(lookups) or 'anything'}",
                model=schema.model,
                hint="give more of the key, or use filter()",
            )
        return found[0] if found else None

    @verb
    async def get_or_raise(self, /, **lookups: Any) -> M:
        """As `get`, but NotFound in place of None."""
        found = await self.get(**lookups)
        if found is None:
            raise not_found(self._schema, self._shown(lookups) or "anything")
        return found

    @verb
    async def count(self) -> int:
        """How many there are, counted on the server."""
        total = 0
        async for counted in self._selection("count").calls():
            total += counted[1]
        return total

    @verb
    async def exists(self) -> bool:
        """Whether there is any."""
        selection = self._selection("keys").planned(limit=1 if self._limit is None else min(self._limit, 1))
        return bool(await selection.found())

    @verb
    async def keys(self) -> list[str]:
        """The keys of the records, in order."""
        return [key.decode() for key, _ in await self._selection("keys").found()]

    @verb
    async def in_bulk(self, keys: Collection[Any]) -> dict[Any, M]:
        """The records of this query with these keys, by what was given for each; those that there are not are absent.

        A key is the value of the key field, a tuple of values where several fields make the key, or a redis_key (a text
        that begins with the model's name and a colon; write such a value as a tuple of one). One round trip for each
        100 keys.
        """
        self._require_whole("in_bulk")
        selection = self._selection("rows", narrow=True)
        items, found = await collecting.in_bulk(selection, keys)
        return dict(zip(items, await self._built(selection, found), strict=True))

    @verb
    async def page(self, size: int, cursor: str | None = None) -> Page[M]:
        """The next `size` records, and the cursor of the page after them: a text to give to `page()` of the same query.

        No record is shown twice or left out because others come and go between pages; one whose own place changes
        stands where it is when its page is read. A page costs a page, however many came before it, where the order is
        that of an index. One round trip. InvalidLookup for a cursor of another query.
        """
        size = self._natural("the size of a page", size, least=1)
        selection = self._selection("rows")
        found, following = await paging.page(selection, size, cursor)
        return Page(await self._built(selection, found), following)

    @verb
    async def explain(self) -> Explanation:
        """How this query is answered: it is run, and its rows are thrown away. `str()` of the answer is for people."""
        return await explaining.explain(self._selection("rows"), repr(self))

    # Changes -----------------------------------------------------------------------------------------------------

    @verb
    async def update(self, /, **values: Any) -> int:
        """Give these values to all records of the query; how many there were.

        Each record is changed whole or not at all, in one script with its indexes, and only if it still matches then.
        Records are found and changed some hundred at a time, two round trips for each: it is no snapshot. With a limit
        or an offset their keys are found first, all of them. `before_save` and `after_save` are called for each (a
        `save` of your own is not). ValidationError before anything is sent; the first failure of a record, such as
        a UniqueViolation, or AlreadyExists where a changed key is taken, ends it and tells how many were changed.
        """
        return await changing.update(replace(self, _values=None)._selection("rows"), values)

    @verb
    async def delete(self) -> int:
        """Delete all records of the query; how many there were. Each as `update` changes it, with its hooks.

        ProtectedRecord when all others are gone and something still protects those that are left.
        """
        return await changing.delete(replace(self, _values=None)._selection("rows"))

    def _require_whole(self, what: str) -> None:
        if self._limit is not None or self._offset:
            raise InvalidLookup(
                f"{self._schema.model}: {what}() takes a query without limit and offset", model=self._schema.model
            )

    # Planning ----------------------------------------------------------------------------------------------------

    @property
    def _test(self) -> Test:
        return self._tests[0] if len(self._tests) == 1 else all_of(self._tests)

    def _selection(self, mode: str, *, narrow: bool = False) -> Selection:
        schema, test, known = self._schema, self._test, dict(self._known)
        require_concrete(schema)
        if self._prefetch and self._values is not None:
            raise InvalidLookup(
                f"{schema.model}: values() gives dicts, in which nothing can be prefetched",
                hint="leave one of them out",
            )
        slow = [] if narrow else unindexed(test)
        if slow:
            names = ", ".join(f"{schema.model}.{name}" for name in slow)
            warnings.warn(
                f"no index answers what is asked of {names}: the whole class is read. Narrow the query, or declare an"
                " index (indexed=True for plain fields)",
                UnindexedFilterWarning,
                stacklevel=_level_of_caller(),
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
        shown = columns if mode == "rows" else ()
        plan = ReadPlan(test, tuple(orders), mode, self._offset, self._limit, shown)
        return Selection(self._model, plan, self._timeout)

    async def _built(self, selection: Selection, found: list[Found]) -> list[M]:
        """The results of some rows, with what was to be prefetched."""
        rows: list[M] = results(self._model, found, selection.plan.columns, self._values, self._distance)
        if self._prefetch and rows:
            await prefetch(rows, tree(self._prefetch), self._timeout)
        return rows

    async def _backwards_by_key(self) -> M | None:
        selection = self._selection("rows").planned(limit=1, offset=0, orders=((ByKey(), True),))
        found = await self._built(selection, await selection.found())
        return found[0] if found else None

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
        return f"<Query of {self._schema.model}: {self._shown({}) or 'all'}>"

    def _shown(self, lookups: dict[str, Any]) -> str:
        """What is asked for, as text for people."""
        said = [text for expression in self._asked for text in asking.shown(expression)]
        return ", ".join([*said, *(f"{name}={shorten(value)}" for name, value in lookups.items())])


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
