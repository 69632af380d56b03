"""What a value means, for every field: validation, stored text, entries, tests. Pure: nothing here waits.

A field is declared, then **bound**: each model class gets its own copy that knows its name, its model and its
neighbours. A new kind of field is one file: it overrides `indexes`, `entries`, `tests` and `order`, and nothing
elsewhere asks what kind a field is.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar, Self, TypedDict, Unpack, get_origin
from uuid import UUID

from popoto_async.codec import Codec, as_utc, codec_for, is_nan
from popoto_async.errors import DefinitionError, InvalidLookup, UniqueViolation, nearest, shorten
from popoto_async.expressions import Attr
from popoto_async.keys import COMPUTED, NULL, escape, part, unescape
from popoto_async.plan import AllOf, ByDistance, ByKey, ByStored, Entry, Index, NoneOf, Stored, Test, Walk
from popoto_async.types import UNSET, Declared, Row, TextT

FEW = 8
"""So many values are looked up one by one; of more, what is stored tells sooner whether a record has one."""

TEXT_LIMIT = 1024
"""Characters a str may have where `max_length` is not given."""

MEASURED = (str, bytes, list, set, tuple, dict)
"""Types with a length that `max_length` can bound."""

TOKENS = (int, float, Decimal, str, bool, date, datetime, time, UUID, Enum)
"""Types whose values can stand in a key."""


class Options(TypedDict, total=False):
    """What every kind of field accepts; `Field` says what each means."""

    null: bool
    default: object
    max_length: int | None
    indexed: bool
    unique: bool
    choices: Collection[Any] | None
    validators: Sequence[Callable[[Any], str | None]]


class Field(Attr[TextT], Declared):
    """A value stored with the record, without an index.

    `type` is one of int, float, Decimal, str, bool, list, set, tuple, dict, bytes, date, datetime, time, UUID or an
    Enum; without it the annotation decides, else str. `null=True` admits None. `default` is a value or a callable
    called per instance. `max_length` bounds str (characters; 1024 unless given), bytes and containers; None lifts it.
    `indexed=True` and `unique=True` make it an `IndexedField` or a `UniqueField`. `choices` lists the values allowed;
    each of `validators` is called with a value and returns a message or None (a ValueError counts as one).
    Filters: `=`, `__in`, `__isnull`.
    """

    lookups: ClassVar[tuple[str, ...]] = ("eq", "in", "isnull")
    parameters: ClassVar[tuple[str, ...]] = ()
    default_type: ClassVar[type] = str
    default_null: ClassVar[bool] = True
    allowed: ClassVar[Collection[type]] = (*TOKENS, bytes, list, set, tuple, dict)
    variants: ClassVar[dict[str, type[Field[Any]]]] = {}
    always_unique: ClassVar[bool] = False
    is_key: ClassVar[bool] = False
    is_relation: ClassVar[bool] = False
    stamps: bool = False
    generates: ClassVar[bool] = False
    partition: tuple[str, ...] = ()
    stands_for: ClassVar[dict[type, type]] = {}
    """Types that an annotation may name in place of the one that is declared."""
    beside: str = ""
    """The index that stands for the key beside the record which holds the value, where the record doesn't."""

    sole_key: bool = False
    key_number: int = 0
    """Which part of the key it is, from 1."""
    codec: Codec
    """How values are stored and read; any exception of its `decode` means that a stored text is no value."""
    limit: int
    unrestricted: bool
    ordinary: type | None
    """The type of values that can be stored if they can be encoded; None where more has to be asked."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """A field without an index whose flags ask for one is made as a kind that keeps one, too."""
        flag = next((flag for flag in ("unique", "indexed") if options.get(flag)), None)
        kind: Any = cls if flag is None else _variant(cls, Field.variants[flag])
        made: Self = object.__new__(kind)
        return made

    def __init__(self, type: type[TextT] | None = None, **options: Unpack[Options]) -> None:
        for unknown in options.keys() - Options.__annotations__.keys():
            raise self.refused(f"there is no option {unknown!r}", nearest(unknown, self._options()))
        for flag in ("null", "indexed", "unique"):
            if not isinstance(options.get(flag, False), bool):
                raise self.refused(f"{flag} must be True or False, not {shorten(options.get(flag))}")
        if self.always_unique and options.get("null"):
            raise self.refused("null=True is not possible on this kind of field", "leave null=True out")
        unique = options.get("unique", self.always_unique)
        if unique != self.always_unique:
            kind = "UniqueField or UniqueKeyField" if unique else "IndexedField or KeyField"
            raise self.refused(f"unique={unique} is not possible on this kind of field", f"use {kind}")
        always = self.__class__.indexes is not Field.indexes and not options.get("unique")
        if always and options.get("indexed") is False:
            raise self.refused(
                "indexed=False is not possible on this kind of field, which always has an index",
                "leave it out; Field(type=…) keeps values without an index, of positions Field(type=tuple)",
            )
        choices, validators = options.get("choices"), options.get("validators", ())
        if not hasattr(choices or (), "__iter__"):
            raise self.refused(f"choices takes a collection of values, not {shorten(choices)}")
        if not hasattr(validators, "__iter__") or not all(map(callable, validators := tuple(validators))):
            raise self.refused(f"validators takes a list of callables, not {shorten(validators)}")
        self.type: Any = type
        self.null = options.get("null", self.default_null)
        self.null_given = "null" in options
        self.default = options.get("default")
        self.has_default = "default" in options
        self.max_length: Any = options.get("max_length", UNSET)
        self.choices = None if choices is None else tuple(choices)
        self.validators = validators

    @classmethod
    def _options(cls) -> set[str]:
        """The names of all options of this kind."""
        own = (inspect.signature(base.__init__) for base in cls.__mro__ if issubclass(base, Field))
        return {"type", *Options.__annotations__}.union(
            *((name for name, each in one.parameters.items() if each.kind is each.KEYWORD_ONLY) for one in own)
        )

    # Declaring ---------------------------------------------------------------------------------------------------

    def bind(self, model: str, name: str, annotated: type | str | None = None, optional: bool = False) -> Self:
        """A copy that belongs to one model class.

        `annotated` is the type that its annotation names, or the text of an annotation that names none; `optional` says
        whether the annotation admits None.
        """
        field = copy.copy(self)
        field.model, field.name = model, name
        if optional and not field.null_given:
            if field.always_unique:
                raise field.refused("its annotation admits None, which this kind of field can't hold")
            field.null = True
        field.type = field._declared_type(annotated)
        if field.type is list and field.max_length is not UNSET and field.max_length is not None:
            field = field._become(Field.variants["capped"])
        field.codec = field._codec()
        field._bound()
        field.unrestricted = field.choices is None and not field.validators
        field.ordinary = field.type if field.unrestricted and field.type in _ORDINARY else None
        if _is_mutable(field.default):
            kind = field.default.__class__.__name__
            raise field.refused(
                f"the default {shorten(field.default)} would be shared by all instances",
                f"pass a callable: default={kind if not field.default else f'lambda: {shorten(field.default)}'}",
            )
        return field

    def _become(self, kind: type[Field[Any]]) -> Self:
        made: Any = object.__new__(_variant(self.__class__, kind))
        made.__dict__.update(self.__dict__)
        found: Self = made
        return found

    def _declared_type(self, annotated: type | str | None) -> type:
        kind: Any = get_origin(self.type) or self.type or annotated or self.default_type
        kind = self.stands_for.get(kind, kind)
        if isinstance(kind, str):
            if len(self.allowed) > 1:
                raise self.refused(f"its annotation {kind!r} names no single type that is known here", "give type=")
            kind = self.default_type
        if not isinstance(kind, type) or not self.admits(kind):
            choices = ", ".join(kind.__name__ for kind in self.allowed)
            raise self.refused(f"type {shorten(kind)} can't be declared", f"choose {choices}")
        return kind

    @classmethod
    def admits(cls, kind: type) -> bool:
        """Whether this kind of field can hold values of a type."""
        return (Enum if issubclass(kind, Enum) else kind) in cls.allowed

    def _codec(self) -> Codec:
        codec = codec_for(self.type)
        if codec is None:
            raise self.refused(f"the values of {self.type.__name__} are not of one type that can stand in a key")
        return codec

    def _bound(self) -> None:
        """Settle how long a value may be."""
        if self.max_length is UNSET:
            self.max_length = TEXT_LIMIT if issubclass(self.type, str) else None
        elif self.max_length is not None:
            if type(self.max_length) is not int or self.max_length < 1:
                raise self.refused(f"max_length must be a positive int or None, not {shorten(self.max_length)}")
            if self.type not in MEASURED:
                raise self.refused(f"max_length is not possible for {self.type.__name__}, which has no length")
        self.limit = sys.maxsize if self.max_length is None else self.max_length

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Learn the neighbours: called once all fields of the class are bound."""
        unknown = [name for name in self.partition if name not in fields]
        if unknown:
            raise self.refused(f"partition_by names no field: {', '.join(unknown)}", nearest(unknown[0], fields))
        for name in self.partition:
            if name == self.name or fields[name].codec.token is None:
                raise self.refused(
                    f"partition_by can't name {name}: it takes another field whose values can stand in a key"
                )

    def refused(self, problem: str, hint: str | None = None) -> DefinitionError:
        """The error of a declaration that can't be."""
        kind = self.__class__.__name__
        message = f"{self.model}.{self.name} ({kind}): {problem}" if self.name else f"{kind}: {problem}"
        return DefinitionError(message, model=self.model, field=self.name, hint=hint)

    # Values ------------------------------------------------------------------------------------------------------

    def initial(self) -> Any:
        """The value of a new instance that was given none."""
        return self.default() if callable(self.default) else self.default

    def normalise(self, value: Any) -> Any:
        """What an assigned value becomes: only changes of form that keep the meaning."""
        kind = self.type
        if type(value) is kind and kind is not datetime:
            return value
        if kind is datetime and isinstance(value, datetime):
            try:
                return as_utc(value)
            except OverflowError:
                return value
        if kind is str and isinstance(value, UUID):
            return str(value)
        if type(value) is int and kind in (float, Decimal):
            try:
                return kind(value)
            except OverflowError:
                return value
        return value

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value; empty when it can be stored."""
        if value is None:
            return [] if self.null else ["must not be null"]
        found = []
        misfit = self._misfit(value)
        if misfit:
            return [misfit]
        if self.max_length is not None and len(value) > self.max_length:
            found.append(f"has a length of {len(value)}, at most {self.max_length} is allowed (max_length)")
        if self.choices is not None and value not in self.choices:
            found.append(f"must be one of {shorten(self.choices)}, not {shorten(value)}")
        return found + self._verdicts(value)

    def _verdicts(self, value: Any) -> list[str]:
        """What the validators say."""
        found = []
        for validator in self.validators:
            try:
                message = validator(value)
            except ValueError as error:
                message = str(error) or "is not valid"
            if message:
                found.append(message)
        return found

    def checked(self, value: Any) -> bytes | None:
        """The stored text of a value that is not null; None where `problems` has something to say.

        Every save comes through here for every field, so ordinary values take a short way.
        """
        kind = value.__class__
        if kind is self.ordinary and (len(value) <= self.limit if kind is str else value == value):
            try:
                return self.codec.encode(value)
            except (ValueError, OverflowError):
                return None
        return None if self.problems(value) else self.codec.encode(value)

    def _misfit(self, value: Any) -> str | None:
        """Why a value is none of the field's type, or can't be stored; None where it can."""
        kind = self.type
        other = (kind is int and isinstance(value, bool)) or (kind is date and isinstance(value, datetime))
        if other or not isinstance(value, kind):
            return f"must be {kind.__name__}, not {type(value).__name__} {shorten(value)}"
        try:
            self.codec.encode(value)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            return f"can't be stored: {error}"
        return None

    def plain(self, value: Any) -> Any:
        """The value as `to_dict` and `values` show it."""
        return value

    def part(self, value: Any) -> str:
        """The value as one part of a key or tail: equal for equal values."""
        if value is None:
            return NULL
        if value is COMPUTED:
            return str(value)
        token = self.codec.token
        if token is None:
            raise self.refused(f"a {self.type.__name__} can't be part of a key")
        return escape(token(value))

    def from_part(self, text: str) -> Any:
        """The value of which `part` made this. Any exception means that it can't be told."""
        return None if text == NULL else self.codec.decode(unescape(text).encode())

    def key_part(self, value: Any) -> str:
        """The part of a key that a lookup's value names. InvalidLookup where it can be none."""
        if value is None:
            return part(None)
        if value.__class__ is not self.type or (value.__class__ is str and not value.isascii()):
            value = self.comparable("eq", value)
        try:
            return self.part(value)
        except (ValueError, OverflowError) as error:
            raise self.invalid("eq", value, f"can't stand in a key: {error}") from error

    def stamp(self, value: Any, now: datetime, inserting: bool) -> Any:
        """The value that a save at `now` gives to a field with `stamps`."""
        return value

    def settle(self, value: Any) -> None:
        """Bring a value that has been saved to what was stored of it."""

    # Indexes -----------------------------------------------------------------------------------------------------

    def indexes(self) -> tuple[Index, ...]:
        """The indexes this field keeps."""
        return ()

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """The entries that a value implies, in a row of the record's values."""
        return ()

    def waiting(self, row: Row, changing: str) -> tuple[Entry, ...]:
        """The entries of a row in which the server will compute `changing`, with `keys.COMPUTED` where it goes."""
        return self.entries(row.get(self.name), row)

    def violation(self, value: Any, owner: str, key: str) -> UniqueViolation:
        """The error of a claim that another record holds."""
        return UniqueViolation(
            self.taken(shorten(value)),
            model=self.model,
            field=self.name,
            value=value,
            key=key,
            owner=owner,
            hint=f"it belongs to {owner!r}; choose another value, or load and change that record",
        )

    def taken(self, shown: str) -> str:
        """What the error of a taken value says."""
        return f"Uniqueness violation on {self.model}.{self.name}: value {shown} is already taken"

    # Queries -----------------------------------------------------------------------------------------------------

    def tests(self, lookups: Mapping[str, Any], tail: str) -> Test:
        """What the lookups of one `filter()` call on this field want of the server. `tail` names the partition."""
        found = tuple(self.test(lookup, value, tail) for lookup, value in lookups.items())
        return found[0] if len(found) == 1 else AllOf(found)

    def test(self, lookup: str, value: Any, tail: str) -> Test:
        """What one lookup wants of the server."""
        if lookup == "isnull":
            found = self.test_null(tail)
            return found if self.checked_bool(lookup, value) else NoneOf(found)
        if lookup == "in":
            return self.test_equal(tuple(self.comparable(lookup, item) for item in self.checked_items(value)), tail)
        if value is None:
            return self.test_null(tail)
        return self.test_equal((self.comparable(lookup, value),), tail)

    def test_null(self, tail: str) -> Test:
        """Records in which this field is null."""
        return Stored(self.name, self.codec.compare, "null")

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """Records in which this field equals one of the values, none of which is null."""
        return self.stored_among(values)

    def stored_among(self, values: tuple[Any, ...]) -> Stored:
        """The same, told of a record by its stored value."""
        codec = self.codec
        texts = (codec.encode(value) for value in values if codec.compare != "number" or not is_nan(value))
        return Stored(self.name, codec.compare, "in", tuple(texts))

    def distances(self, lookups: Mapping[str, Any]) -> tuple[ByDistance, str] | None:
        """How to order by distance and the unit to tell it in, where the lookups ask for distances."""
        return None

    def order(self, tail: str) -> Walk | ByStored | ByKey:
        """How the server orders by this field."""
        return ByStored(self.name, self.codec.compare)

    def comparable(self, lookup: str, value: Any) -> Any:
        """A value a lookup compares with, brought to the field's type as an assignment would."""
        value = self.normalise(value)
        misfit = self._misfit(value)
        if misfit:
            raise self.invalid(lookup, value, misfit)
        return value

    def checked_items(self, value: Any) -> list[Any]:
        """The items of an `__in`."""
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            raise self.invalid("in", value, "takes an iterable of values")
        return list(value)

    def checked_bool(self, lookup: str, value: Any) -> bool:
        """The argument of an `__isnull`."""
        if not isinstance(value, bool):
            raise self.invalid(lookup, value, "takes True or False")
        return value

    def invalid(self, lookup: str, value: Any, problem: str) -> InvalidLookup:
        """The error of a lookup's value."""
        name = self.name if lookup == "eq" else f"{self.name}{'_' if lookup in self.parameters else '__'}{lookup}"
        return InvalidLookup(
            f"{self.model}: {name}={shorten(value)}: {problem}", model=self.model, field=self.name, value=value
        )

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__} {self.model}.{self.name}>"


_ORDINARY = frozenset({str, int, float, bool, date, datetime})
"""Types whose values can be stored if they can be encoded, but for long texts, and for a float's NaN in some fields."""


def _is_mutable(value: Any) -> bool:
    """Whether a literal can be changed in place, or something in it can."""
    return isinstance(value, (list, dict, set, bytearray)) or (
        isinstance(value, tuple) and any(map(_is_mutable, value))
    )


def _variant(cls: type[Field[Any]], indexing: type[Field[Any]]) -> type[Field[Any]]:
    """A kind that is `cls` and keeps the index of `indexing`; `cls` itself where it keeps an index of its own."""
    if issubclass(indexing, cls):
        return indexing
    return cls if cls.indexes is not Field.indexes else type(cls.__name__, (cls, indexing), {})
