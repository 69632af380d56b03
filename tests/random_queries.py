"""Random queries, as the library is asked them and as a list comprehension answers them: conjunctions, and trees."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from hypothesis import strategies as st

from popoto_async import IndexedField, Model, Q, SortedField
from tests.model_of_store import TEXT_LOOKUPS, Rows, Values, holds, ordered, stored_text

RANGES = ("lt", "lte", "gt", "gte", "between")


@dataclass(frozen=True)
class Asked:
    """Lookups, an order and a page."""

    model: type[Model]
    lookups: tuple[tuple[str, str, Any], ...] = ()
    orders: tuple[str, ...] = ()
    limit: int | None = None
    offset: int = 0

    def query(self) -> Any:
        """As the library is asked: keywords in one filter(), those that name one twice in further ones."""
        query: Any = self.model.query
        calls: list[dict[str, Any]] = [{}]
        for name, lookup, operand in self.lookups:
            word = name if lookup == "eq" else f"{name}__{lookup}"
            if word in calls[-1]:
                calls.append({})
            calls[-1][word] = operand
        for call in calls:
            query = query.filter(**call)
        query = query.order_by(*self.orders).limit(self.limit)
        return query.offset(self.offset) if self.offset else query

    def chosen(self, rows: Rows) -> Rows:
        """The rows that satisfy all lookups."""
        return {key: row for key, row in rows.items() if all(holds(row, *lookup) for lookup in self.lookups)}

    def sequence(self, rows: Rows) -> list[str]:
        """Their keys in order: the one asked for, else by the one field that has a range, else by key."""
        orders = self.orders
        if not orders:
            fields = self.model._meta.fields
            ranged = {
                name for name, lookup, operand in self.lookups
                if lookup in RANGES and isinstance(fields[name], SortedField)
            }  # fmt: skip
            orders = tuple(ranged) if len(ranged) == 1 else ()
        return ordered(self.chosen(rows), orders)

    def answer(self, rows: Rows) -> list[str]:
        """The keys of the page."""
        stop = None if self.limit is None else self.offset + self.limit
        return self.sequence(rows)[self.offset : stop]


def lookups_of(field: Any) -> list[str]:
    """What a field answers."""
    ranges = RANGES if isinstance(field, SortedField) else ()
    texts = TEXT_LOOKUPS if isinstance(field, IndexedField) and field.type is str else ()
    return ["eq", "in", "isnull", *ranges, *texts]


def pieces(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Parts of texts that the values have, mostly."""

    @st.composite
    def piece(draw: Any) -> str:
        text = stored_text(draw(values.filter(lambda found: found is not None))).decode()
        begin, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
        return text[begin:end]

    return piece()


@st.composite
def asked(draw: Any, model: type[Model], operands: Mapping[str, Any]) -> Asked:
    """A query over the fields that have operands. Partitions that it needs are given."""
    fields = model._meta.fields
    lookups: list[tuple[str, str, Any]] = []
    known: set[str] = set()

    def value(name: str) -> Any:
        return draw(operands[name].filter(lambda found: found is not None))

    def partition(name: str) -> None:
        for part in getattr(fields[name], "partition", ()):
            if part not in known:
                known.add(part)
                lookups.append((part, "eq", draw(operands[part])))

    for name in draw(st.lists(st.sampled_from(sorted(operands)), max_size=3)):
        lookup = draw(st.sampled_from(lookups_of(fields[name])))
        partition(name)
        if lookup == "isnull":
            operand = draw(st.booleans())
        elif lookup == "in":
            operand = [value(name) for _ in range(draw(st.integers(0, 3)))]
        elif lookup == "between":
            operand = (value(name), value(name))
        elif lookup in TEXT_LOOKUPS:
            operand = draw(pieces(operands[name]))
        else:
            operand = value(name) if lookup != "eq" else draw(operands[name])
        lookups.append((name, lookup, operand))
    orders = draw(st.lists(st.sampled_from(sorted(operands)), max_size=2, unique=True))
    for name in orders:
        partition(name)
    return Asked(
        model,
        tuple(draw(st.permutations(lookups))) if not _needs_order(model, lookups) else tuple(lookups),
        tuple(draw(st.sampled_from(["", "-"])) + name for name in orders),
        draw(st.one_of(st.none(), st.integers(0, 5))),
        draw(st.sampled_from([0, 0, 0, 1, 3])),
    )


def _needs_order(model: type[Model], lookups: list[tuple[str, str, Any]]) -> bool:
    """Whether a lookup needs a partition that an earlier filter() call gives."""
    return any(getattr(model._meta.fields[name], "partition", ()) for name, _, _ in lookups)


# Trees ---------------------------------------------------------------------------------------------------------------

Tree = tuple[Any, Callable[[Values], bool]]
"""What the library is asked, and the same as a predicate over rows."""

_CONDITIONS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge,
    "in": lambda field, value: field.in_(value), "isnull": lambda field, value: field.isnull(value),
    "between": lambda field, value: field.between(*value),
}  # fmt: skip


@st.composite
def _leaves(draw: Any, model: type[Model], operands: Mapping[str, Any]) -> Tree:
    """One lookup, as a condition or in a Q; on a partitioned field, together with its partition."""
    name = draw(st.sampled_from(sorted(operands)))
    field: Any = getattr(model, name)
    value = operands[name].filter(lambda found: found is not None)
    plain = ["eq", "in", "isnull"]
    lookup = draw(st.sampled_from([*plain, *RANGES] if isinstance(field, SortedField) else plain))
    operand: Any = draw(operands[name] if lookup == "eq" else value)
    if lookup == "in":
        operand = draw(st.lists(value, max_size=3))
    elif lookup == "isnull":
        operand = draw(st.booleans())
    elif lookup == "between":
        operand = (operand, draw(value))
    asked = [(name, lookup, operand), *((part, "eq", draw(operands[part])) for part in getattr(field, "partition", ()))]
    conditions = [_CONDITIONS[how](getattr(model, one), wanted) for one, how, wanted in asked]
    keywords = {one if how == "eq" else f"{one}__{how}": wanted for one, how, wanted in asked}
    forms = [reduce(operator.and_, conditions), Q(**keywords), Q(*conditions), Q() & Q(**keywords)]
    return draw(st.sampled_from(forms)), lambda row: all(holds(row, *one) for one in asked)


def _either(a: Tree, b: Tree) -> Tree:
    return a[0] | b[0], lambda row: a[1](row) or b[1](row)


def _both(a: Tree, b: Tree) -> Tree:
    return a[0] & b[0], lambda row: a[1](row) and b[1](row)


def _not(a: Tree) -> Tree:
    return ~a[0], lambda row: not a[1](row)


def trees(model: type[Model], operands: Mapping[str, Any]) -> st.SearchStrategy[Tree]:
    """Trees of conditions and Qs over the fields that have operands."""
    return trees_of(_leaves(model, operands))


def trees_of(leaves: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """These leaves under any combination of `|`, `&` and `~`."""
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(_either, inner, inner), st.builds(_both, inner, inner), st.builds(_not, inner)
        ),
        max_leaves=6,
    )


@dataclass(frozen=True)
class Chosen:
    """Trees given to `filter` and `exclude`, an order and a page."""

    model: type[Model]
    wanted: tuple[Tree, ...]
    unwanted: tuple[Tree, ...]
    orders: tuple[str, ...]
    limit: int | None = None
    offset: int = 0

    def narrowed(self) -> Any:
        """As the library is asked, without the page."""
        query: Any = self.model.query.filter(*(tree for tree, _ in self.wanted))
        return query.exclude(*(tree for tree, _ in self.unwanted)).order_by(*self.orders)

    def query(self) -> Any:
        """As the library is asked."""
        return self.narrowed().limit(self.limit).offset(self.offset)

    def accepts(self, row: Values) -> bool:
        """Whether a row satisfies what is wanted, and not all of what is unwanted."""
        unwanted = bool(self.unwanted) and all(holds(row) for _, holds in self.unwanted)
        return all(holds(row) for _, holds in self.wanted) and not unwanted

    def sequence(self, rows: Rows) -> list[str]:
        """The keys of all that satisfy it, in order."""
        return ordered({key: row for key, row in rows.items() if self.accepts(row)}, self.orders)

    def answer(self, rows: Rows) -> list[str]:
        """The keys of the page."""
        return self.sequence(rows)[self.offset : None if self.limit is None else self.offset + self.limit]


@st.composite
def chosen(draw: Any, model: type[Model], operands: Mapping[str, Any], orders: Sequence[str]) -> Chosen:
    """Any trees, up to three orders of those given, any page."""
    inner = trees(model, operands)
    by = draw(st.lists(st.sampled_from(orders), min_size=1, max_size=3, unique=True))
    return Chosen(
        model,
        tuple(draw(st.lists(inner, max_size=2))),
        tuple(draw(st.lists(inner, max_size=2))),
        tuple(draw(st.sampled_from(["", "-"])) + name for name in by),
        draw(st.one_of(st.none(), st.integers(0, 9))),
        draw(st.sampled_from([0, 0, 0, 1, 4])),
    )
