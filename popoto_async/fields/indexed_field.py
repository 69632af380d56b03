"""Fields found by equality: IndexedField, and UniqueField which also lets only one record hold a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import time
from enum import Enum
from typing import Any, ClassVar, Unpack

import msgspec

from popoto_async.codec import is_nan
from popoto_async.errors import shorten
from popoto_async.fields.base import FEW, TOKENS, Field, Options
from popoto_async.keys import NULL, escape, mirrored
from popoto_async.plan import (
    CLAIM,
    MEMBER,
    Among,
    AnyOf,
    Claimed,
    Entry,
    Index,
    KeyBegins,
    Matches,
    NoneOf,
    Nothing,
    Test,
)
from popoto_async.types import Row, TextT

MATCHES = {"startswith": "starts", "endswith": "ends", "contains": "has"}
"""Lookup → how a text is compared with another."""


def holds_texts(kind: type) -> bool:
    """Whether all values of a type are texts: str, or an Enum of str."""
    return all(type(one.value) is str for one in kind) if issubclass(kind, Enum) else kind is str


def reject_nan(value: Any, found: list[str]) -> list[str]:
    """The problems of a value that is going to be compared, NaN among them."""
    return ["must not be NaN, which equals nothing"] if not found and value is not None and is_nan(value) else found


class IndexedField(Field[TextT]):
    """A value with an index of the records that hold it: `=`, `__in` and `__isnull` cost what they return.

    Null is a value of its own, different from the text "None". Texts (str, and Enums of str) are also found by
    `__startswith`, `__endswith` and `__contains`, character by character, through a sorted list of the distinct ones.
    The last two go through all of that list; `suffixes=True` keeps a mirror of it, where `__endswith` costs what it
    returns.
    """

    lookups = ("eq", "in", "isnull", *MATCHES)
    allowed: ClassVar[Collection[type]] = TOKENS
    prefix: ClassVar[str] = "Index"
    kind: ClassVar[str] = MEMBER

    def __init__(self, type: type[TextT] | None = None, *, suffixes: bool = False, **options: Unpack[Options]) -> None:
        super().__init__(type, **options)
        if not isinstance(suffixes, bool):
            raise self.refused(f"suffixes must be True or False, not {shorten(suffixes)}")
        self.suffixes = suffixes

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Name the index."""
        super().connect(fields)
        if self.codec.token is None:
            raise self.refused(f"a {self.type.__name__} can't stand in an index")
        self._name = f"{self.prefix}:{self.name}"
        self.is_text = holds_texts(self.type)
        self._listings = self._listed()

    def _listed(self) -> tuple[str, ...]:
        """The lists of the distinct values: as they are, then reversed."""
        if self.suffixes and not self.is_text:
            raise self.refused(f"suffixes=True is for texts, not for {self.type.__name__}", "leave suffixes out")
        # Records stand in the order of the first part of their keys: where no two share it, they are the list.
        is_list = self.sole_key or (self.key_number == 1 and self.always_unique)
        if not self.is_text or (is_list and not self.suffixes):
            return ()
        return (f"Val:{self.name}", f"Rev:{self.name}") if self.suffixes else (f"Val:{self.name}",)

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value; NaN is, too."""
        return reject_nan(value, super().problems(value))

    def indexes(self) -> tuple[Index, ...]:
        """One sorted set per value, scores 0."""
        return (Index(self._name, self.kind, (self.name,), self.kind == MEMBER, self._listings),)

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """A place in the set of the value, or of null."""
        return (Entry(self._name, self.part(value)),)

    def test(self, lookup: str, value: Any, tail: str) -> Test:
        """What one lookup wants of the server."""
        if lookup in MATCHES:
            return self.test_text(MATCHES[lookup], self.checked_text(lookup, value), tail)
        return super().test(lookup, value, tail)

    def checked_text(self, lookup: str, value: Any) -> str:
        """The text that texts are compared with."""
        if not self.is_text:
            raise self.invalid(lookup, value, f"is for texts, and the values are of type {self.type.__name__}")
        if not isinstance(value, str):
            raise self.invalid(lookup, value, f"takes a str, not {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.invalid(lookup, value, f"can't be part of a stored text: {error}") from error
        return str.__str__(value)

    def test_text(self, op: str, text: str, tail: str) -> Test:
        """The records whose text begins with, ends with or contains another."""
        if not text:
            return NoneOf(self.test_null(tail))
        if op == "starts" and self.key_number == 1:
            return KeyBegins(escape(text))
        found = Matches(op, text, "" if self.key_number else self.name, self.key_number)
        if not self._listings:
            return found
        mirror = op == "ends" and self.suffixes
        begins = mirrored(text) if mirror else escape(text) if op == "starts" else ""
        return msgspec.structs.replace(
            found,
            begins=begins,
            index=self._name,
            claims=self.kind != MEMBER,
            listing=self._listings[int(mirror)],
            mirror=mirror,
        )

    def test_null(self, tail: str) -> Test:
        """The set of null."""
        return AnyOf(self._name, (NULL,))

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The sets of the values."""
        tails = tuple(dict.fromkeys(self.part(value) for value in values))
        found = AnyOf(self._name, tails)
        if len(tails) <= FEW or self.type is time:  # equal times of day can be stored as different texts
            return found if tails else Nothing()
        return Among(found, self.stored_among(values))


class UniqueField(IndexedField[TextT]):
    """A value that one record at most holds: of concurrent saves of one value, exactly one wins.

    The others raise `UniqueViolation`. A deleted, expired or changed owner frees its value; a failed save claims none.
    """

    default_null = False
    always_unique = True
    prefix = "Uniq"
    kind = CLAIM
    """One hash of owners by value."""

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
