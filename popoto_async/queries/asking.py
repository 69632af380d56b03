"""What a filter says: conditions, keywords and Qs become one expression of the model, checked. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from popoto_async.errors import InvalidLookup, shorten
from popoto_async.expressions import And, Condition, Expression, Not, Or, Q, Through
from popoto_async.plan import ByDistance
from popoto_async.planning.read import checked, parse_lookup
from popoto_async.schema import Schema


def resolved(schema: Schema, asked: Any) -> Expression | None:
    """The expression in which every lookup is one of the model's; None where nothing is said.

    InvalidLookup for an unknown field or lookup, and for what is no expression.
    """
    if isinstance(asked, Condition):
        return checked(schema, asked)
    if isinstance(asked, Q):
        return all_of(schema, asked.conditions, asked.lookups)
    if isinstance(asked, Through):
        return asked
    if isinstance(asked, Not):
        child = resolved(schema, asked.child)
        return None if child is None else Not(child)
    if isinstance(asked, And):
        return all_of(schema, asked.children, ())
    if isinstance(asked, Or):
        said = _all_resolved(schema, asked.children)
        return said[0] if len(said) == 1 else Or(tuple(said)) if said else None
    raise InvalidLookup(
        f"{schema.model}: filter() takes conditions, not {shorten(asked)}",
        model=schema.model,
        value=asked,
        hint=f"compare fields of the class: {schema.model}.{next(iter(schema.fields))} == …",
    )


def all_of(schema: Schema, conditions: Iterable[Any], lookups: Iterable[tuple[str, Any]]) -> And | None:
    """As `resolved`: all of these, and of what keywords say, have to hold."""
    said = _all_resolved(schema, conditions)
    for name, value in lookups:
        said.append(parse_lookup(schema, name, value))
    return And(tuple(said)) if said else None


def _all_resolved(schema: Schema, asked: Iterable[Any]) -> list[Expression]:
    return [found for each in asked if (found := resolved(schema, each)) is not None]


def distance(schema: Schema, expression: Expression) -> tuple[ByDistance, str] | None:
    """The distance that a conjunction asks to be told, and its unit."""
    if not isinstance(expression, And):
        return None
    measured: dict[str, dict[str, Any]] = {}
    inner: list[And] = []
    for child in expression.children:
        if isinstance(child, And):
            inner.append(child)
        elif isinstance(child, Condition) and schema.fields[child.field].parameters:
            measured.setdefault(child.field, {})[child.lookup] = child.value
    found = [schema.fields[name].distances(asked) for name, asked in measured.items()]
    found.extend(distance(schema, child) for child in inner)
    return next((wanted for wanted in found if wanted), None)


def shown(expression: Expression) -> list[str]:
    """The parts of a filter, as text for people."""
    return [_text(child) for child in expression.children] if isinstance(expression, And) else [_text(expression)]


def _text(expression: Expression) -> str:
    if isinstance(expression, Condition):
        lookup = "" if expression.lookup == "eq" else f"__{expression.lookup}"
        return f"{expression.field}{lookup}={shorten(expression.value)}"
    if isinstance(expression, Through):
        return f"{expression.field}__{_text(expression.child)}"
    if isinstance(expression, Not):
        return f"~({_text(expression.child)})"
    if isinstance(expression, (And, Or)):
        texts = [_text(child) for child in expression.children]
        word = " & " if isinstance(expression, And) else " | "
        return texts[0] if len(texts) == 1 else f"({word.join(texts)})"
    return repr(expression)
