"""Indexes over several fields: `Meta.unique_together` and `Meta.indexes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from popoto_async.errors import DefinitionError, UniqueViolation, shorten
from popoto_async.fields.base import Field
from popoto_async.keys import tail
from popoto_async.plan import CLAIM, MEMBER, AnyOf, Claimed, Entry, Index, Test
from popoto_async.types import Row


class CompositeIndex:
    """An index of the combinations of several fields' values, unique or not. A combination with a null is in none."""

    def __init__(self, model: str, fields: tuple[Field[Any], ...], unique: bool) -> None:
        self.model, self.fields, self.unique = model, fields, unique
        self.names = tuple(field.name for field in fields)
        self.index = Index(
            f"{'Uniq' if unique else 'Index'}:{'+'.join(self.names)}",
            CLAIM if unique else MEMBER,
            self.names,
            tailed=not unique,
        )

    def entries(self, row: Row) -> tuple[Entry, ...]:
        """The place of a row."""
        values = [row.get(name) for name in self.names]
        if any(value is None for value in values):
            return ()
        return (Entry(self.index.name, self._tail(values)),)

    def waiting(self, row: Row, changing: str) -> tuple[Entry, ...]:
        """The place of a row in which the server will compute one value."""
        return self.entries(row)

    def test(self, values: list[Any]) -> Test:
        """The records with this combination, none of it null."""
        where = self._tail(values)
        return Claimed(self.index.name, (where,)) if self.unique else AnyOf(self.index.name, (where,))

    def _tail(self, values: list[Any]) -> str:
        return tail(field.part(value) for field, value in zip(self.fields, values, strict=True))

    def violation(self, row: Row, owner: str, key: str) -> UniqueViolation:
        """The error of a combination that another record holds."""
        values = tuple(row.get(name) for name in self.names)
        names = ", ".join(self.names)
        return UniqueViolation(
            f"Uniqueness violation on {self.model}.({names}): value {shorten(values)} is already taken",
            model=self.model,
            field=names,
            value=values,
            key=key,
            owner=owner,
            hint=f"it belongs to {owner!r}; change one of {names}",
        )


def composite_indexes(
    model: str, declared: Any, together: Any, fields: Mapping[str, Field[Any]]
) -> list[CompositeIndex]:
    """The indexes that `Meta.indexes` and `Meta.unique_together` declare, checked."""
    pairs = [(names, True) for names in _rows(model, "unique_together", together)]
    for item in declared if isinstance(declared, (tuple, list)) else (declared,) if declared else ():
        if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[1], bool):
            raise DefinitionError(
                f"{model}: Meta.indexes takes pairs ((field, …), unique: bool), not {shorten(item)}", model=model
            )
        pairs.append((item[0], item[1]))
    found = []
    for names, unique in pairs:
        wrong = [name for name in names if name not in fields] if isinstance(names, (tuple, list)) else [names]
        if wrong or not names:
            raise DefinitionError(f"{model}: an index over {shorten(names)} names no field: {wrong}", model=model)
        for field in (fields[name] for name in names):
            if field.codec.token is None:
                raise DefinitionError(
                    f"{model}: {field.name} can't be part of an index: a {field.type.__name__} can't stand in a key",
                    model=model,
                    field=field.name,
                )
        found.append(CompositeIndex(model, tuple(fields[name] for name in names), unique))
    return found


def _rows(model: str, option: str, value: Any) -> list[Any]:
    if not value:
        return []
    if not isinstance(value, (tuple, list)):
        raise DefinitionError(f"{model}: Meta.{option} takes field names, not {shorten(value)}", model=model)
    return [tuple(value)] if all(isinstance(name, str) for name in value) else list(value)
