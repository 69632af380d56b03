"""The parts of a record's key: KeyField, UniqueKeyField."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from popoto_async.fields.base import Field
from popoto_async.fields.indexed_field import IndexedField, UniqueField
from popoto_async.plan import Entry, Index, KeyIs, Nothing, Test
from popoto_async.types import Row, TextT

STRICT_CLAIM = "k"
"""A claim that a new record can't take from an earlier one of the same key either."""


class KeyField(IndexedField[TextT]):
    """A part of the key, in declaration order; several make a composite key.

    Changing it and saving moves the record with everything that belongs to it. A single key part needs no index: the
    key is its own.
    """

    default_null = False
    is_key = True

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Refuse what the key alone can't keep."""
        super().connect(fields)
        if self.suffixes and self.sole_key:
            raise self.refused("suffixes=True is not possible for the only part of a key", "use UniqueKeyField")

    def indexes(self) -> tuple[Index, ...]:
        """One sorted set per value, where the key has other parts."""
        return () if self.sole_key else super().indexes()

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """A place in the set of the value, where the key has other parts."""
        return () if self.sole_key else super().entries(value, row)

    def test_null(self, tail: str) -> Test:
        """The record, or the set, of null."""
        return KeyIs((self.part(None),)) if self.sole_key else super().test_null(tail)

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The records, or the sets, of the values."""
        if not self.sole_key:
            return super().test_equal(values, tail)
        parts = tuple(dict.fromkeys(self.part(value) for value in values))
        return KeyIs(parts) if parts else Nothing()


class UniqueKeyField(UniqueField[TextT]):
    """A part of the key whose value only one record holds, whatever its other parts are.

    A second create of the value raises `UniqueViolation`, also where it would have the same key.
    """

    is_key = True
    prefix = "UniqKey"
    kind = STRICT_CLAIM
    """Its claims stand apart from those of a UniqueField that had the name before."""

    def taken(self, shown: str) -> str:
        """What the error of a taken value says."""
        return f"UniqueKeyField '{self.name}' value {shown} already exists"
