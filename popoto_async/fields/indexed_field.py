"""Fields found by equality: IndexedField, and UniqueField which also lets only one record hold a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any, ClassVar

from popoto_async.fields.base import TOKENS, Field
from popoto_async.keys import NULL
from popoto_async.plan import CLAIM, MEMBER, AnyOf, Claimed, Entry, Index, Nothing, Test
from popoto_async.types import Row, TextT


def is_nan(value: Any) -> bool:
    """Whether a valid value equals nothing, not even itself."""
    # A signaling NaN of decimal raises where it is compared.
    return value.is_nan() if isinstance(value, Decimal) else bool(value != value)


def reject_nan(value: Any, found: list[str]) -> list[str]:
    """The problems of a value that is going to be compared, NaN among them."""
    return ["must not be NaN, which equals nothing"] if not found and value is not None and is_nan(value) else found


class IndexedField(Field[TextT]):
    """A value with an index of the records that hold it: `=`, `__in` and `__isnull` cost what they return.

    Null is a value of its own, different from the text "None".
    """

    allowed: ClassVar[Collection[type]] = TOKENS
    prefix: ClassVar[str] = "Index"

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Name the index."""
        super().connect(fields)
        if self.codec.token is None:
            raise self.refused(f"a {self.type.__name__} can't stand in an index")
        self._name = f"{self.prefix}:{self.name}"

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value; NaN is, too."""
        return reject_nan(value, super().problems(value))

    def indexes(self) -> tuple[Index, ...]:
        """One sorted set per value, scores 0."""
        return (Index(self._name, MEMBER, (self.name,), tailed=True),)

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """A place in the set of the value, or of null."""
        return (Entry(self._name, self.part(value)),)

    def test_null(self, tail: str) -> Test:
        """The set of null."""
        return AnyOf(self._name, (NULL,))

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The sets of the values."""
        tails = tuple(dict.fromkeys(self.part(value) for value in values))
        return AnyOf(self._name, tails) if tails else Nothing()


class UniqueField(IndexedField[TextT]):
    """A value that one record at most holds: of concurrent saves of one value, exactly one wins.

    The others raise `UniqueViolation`. A deleted, expired or changed owner frees its value; a failed save claims none.
    """

    default_null = False
    always_unique = True
    prefix = "Uniq"
    claim_kind: ClassVar[str] = CLAIM

    def indexes(self) -> tuple[Index, ...]:
        """One hash of owners by value."""
        return (Index(self._name, self.claim_kind, (self.name,), tailed=False),)

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """The claim of the value; a record that was stored before the field was declared has none."""
        return () if value is None else super().entries(value, row)

    def test_null(self, tail: str) -> Test:
        """None: the value is never null."""
        return Nothing()

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The owners of the values."""
        tails = tuple(dict.fromkeys(self.part(value) for value in values))
        return Claimed(self._name, tails) if tails else Nothing()


Field.variants.update(indexed=IndexedField, unique=UniqueField)
