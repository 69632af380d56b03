"""What a query asks for, as frozen values, and the attributes that build them: no servers, no keys, no kinds of field.

`Restaurant.rating >= 4` is `Condition("rating", "gte", 4)`; expressions combine with `&`, `|` and `~`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, overload

import msgspec

from popoto_async.errors import CorruptRecord, InvalidLookup, NotLoaded, shorten
from popoto_async.types import T


class Expression:
    """A condition or a combination of conditions."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise InvalidLookup(
            "a condition has no truth value of its own: combine conditions with & | ~ and pass them to filter()",
            model=getattr(self, "model", None),
            field=getattr(self, "field", None),
        )


class Node(Expression):
    """What combines into trees."""

    __slots__ = ()

    def __and__(self, other: Expression | bool) -> And:
        return And((*parts(And, self), *parts(And, other))) if isinstance(other, Expression) else NotImplemented

    def __or__(self, other: Expression | bool) -> Or:
        return Or((*parts(Or, self), *parts(Or, other))) if isinstance(other, Expression) else NotImplemented

    if TYPE_CHECKING:  # where `name: str = KeyField()`, `R.name == "x"` is a bool to checkers, on either side

        def __rand__(self, other: bool) -> And: ...
        def __ror__(self, other: bool) -> Or: ...

    def __invert__(self) -> Not:
        return Not(self)


class Condition(Node, msgspec.Struct, frozen=True):
    """One field, one lookup, one value. `model` is the class the field was taken from, where it is known."""

    field: str
    lookup: str
    value: Any
    model: str | None = None


class And(Node, msgspec.Struct, frozen=True):
    """True where all children are."""

    children: tuple[Expression, ...]


class Or(Node, msgspec.Struct, frozen=True):
    """True where one child is."""

    children: tuple[Expression, ...]


class Not(Node, msgspec.Struct, frozen=True):
    """True where the child is not."""

    child: Expression


class Through(Node, msgspec.Struct, frozen=True):
    """True where the record that a relation leads to satisfies the child."""

    field: str
    child: Expression
    model: str | None = None


@dataclass(frozen=True, slots=True, init=False)
class Q(Expression):
    """Conditions and lookups, all of which have to hold: `Q(cuisine="Thai", rating__gte=4) | ~Q(open=True)`.

    Takes what `filter()` takes, combines with `&`, `|` and `~` with other Qs and with conditions (`Model.rating >= 4`),
    to any depth. It belongs to no model yet: names and values are checked when `filter()` or `exclude()` takes it. A Q
    of nothing says nothing, wherever it stands, so that `q = Q()` can be a beginning: `q |= Q(name=name)`.
    """

    conditions: tuple[Expression | bool, ...]
    lookups: tuple[tuple[str, Any], ...]

    def __init__(self, /, *conditions: Expression | bool, **lookups: Any) -> None:
        object.__setattr__(self, "conditions", conditions)
        object.__setattr__(self, "lookups", tuple(lookups.items()))

    def __and__(self, other: Expression | bool) -> Q:
        return Q(*parts(And, self), *parts(And, other)) if isinstance(other, Expression) else NotImplemented

    def __or__(self, other: Expression | bool) -> Q:
        return Q(Or((*parts(Or, self), *parts(Or, other)))) if isinstance(other, Expression) else NotImplemented

    if TYPE_CHECKING:  # as in Node

        def __rand__(self, other: bool) -> Q: ...
        def __ror__(self, other: bool) -> Q: ...

    def __invert__(self) -> Q:
        return Q(Not(self))


def parts(kind: type[And | Or], expression: Expression) -> tuple[Any, ...]:
    """What an expression combines in this way; itself if it does not. So combinations made in a loop stay flat."""
    if isinstance(expression, Q) and not expression.lookups:
        if kind is And:
            return expression.conditions
        if len(expression.conditions) == 1 and isinstance(expression.conditions[0], Or):
            return expression.conditions[0].children
    return expression.children if isinstance(expression, kind) else (expression,)


class Attr(Generic[T]):
    """A declared attribute: a `T` on an instance and in the constructor, a builder of conditions on the class."""

    name: str = ""
    model: str = ""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        # Values stand in the instance's `__dict__`, which comes first; there is no `__set__` at run time.
        state = instance.__dict__
        if self.name in state.get("_corrupt", ()):
            raise self.corrupt(state.get("_key"), state["_corrupt"][self.name])
        if "_stub" in state:
            raise NotLoaded(
                f"{self.model}.{self.name} of {state['_key']!r} was not loaded",
                model=self.model,
                field=self.name,
                key=state["_key"],
                hint=f"write: await {state['_stub']}",
            )
        raise AttributeError(f"{self.model} instance has no value for {self.name!r}")

    if TYPE_CHECKING:

        def __set__(self, instance: object, value: T) -> None: ...

    def corrupt(self, key: str | None, raw: bytes) -> CorruptRecord:
        """The error of stored bytes that are no value of this attribute."""
        return CorruptRecord(
            f"{self.model}.{self.name}: what is stored can't be read: {shorten(raw)}",
            model=self.model,
            field=self.name,
            key=key,
            value=raw,
            hint="assign a value and save, or delete the record",
        )

    def _condition(self, lookup: str, value: object) -> Condition:
        return Condition(self.name, lookup, value, self.model)

    def __eq__(self, other: object) -> Condition:  # type: ignore[override]  # a condition, not a truth value
        return self._condition("eq", other)

    def __ne__(self, other: object) -> Not:  # type: ignore[override]  # a condition, not a truth value
        return ~self._condition("eq", other)

    def __lt__(self, other: T) -> Condition:
        return self._condition("lt", other)

    def __le__(self, other: T) -> Condition:
        return self._condition("lte", other)

    def __gt__(self, other: T) -> Condition:
        return self._condition("gt", other)

    def __ge__(self, other: T) -> Condition:
        return self._condition("gte", other)

    def between(self, low: T, high: T) -> Condition:
        """From `low` to `high`, both included."""
        return self._condition("between", (low, high))

    def in_(self, values: Iterable[T]) -> Condition:
        """Equal to one of the values."""
        return self._condition("in", values)

    def startswith(self, text: str) -> Condition:
        """Beginning with the text."""
        return self._condition("startswith", text)

    def endswith(self, text: str) -> Condition:
        """Ending with the text."""
        return self._condition("endswith", text)

    def contains(self, text: str) -> Condition:
        """With the text anywhere in it."""
        return self._condition("contains", text)

    def isnull(self, null: bool = True) -> Condition:
        """Null, or not null."""
        return self._condition("isnull", null)

    def __hash__(self) -> int:
        return object.__hash__(self)


class Order(msgspec.Struct, frozen=True):
    """One field to order by."""

    field: str
    descending: bool = False


def parse_order(text: str) -> Order:
    """`"-rating"` is rating, descending."""
    return Order(text[1:], True) if text.startswith("-") else Order(text)
