"""A field class for each plain type: `IntField()` is `Field(type=int)`."""

from __future__ import annotations

from datetime import date, time
from decimal import Decimal
from typing import Any

from popoto_async.fields.base import Field
from popoto_async.fields.datetime_field import DatetimeField
from popoto_async.fields.indexed_field import IndexedField, UniqueField
from popoto_async.fields.list_field import ListField
from popoto_async.types import TypeVar

IntT = TypeVar("IntT", bound=int | None, default=int)
FloatT = TypeVar("FloatT", bound=float | None, default=float)
DecimalT = TypeVar("DecimalT", bound=Decimal | None, default=Decimal)
StringT = TypeVar("StringT", bound=str | None, default=str)
BooleanT = TypeVar("BooleanT", bound=bool | None, default=bool)
SetT = TypeVar("SetT", bound=set[Any] | None, default=set[Any])
TupleT = TypeVar("TupleT", bound=tuple[Any, ...] | None, default=tuple[Any, ...])
DictT = TypeVar("DictT", bound=dict[Any, Any] | None, default=dict[Any, Any])
BytesT = TypeVar("BytesT", bound=bytes | None, default=bytes)
DateT = TypeVar("DateT", bound=date | None, default=date)
TimeT = TypeVar("TimeT", bound=time | None, default=time)


class IntField(Field[IntT]):
    """An int of any size."""

    default_type = int
    allowed = (int,)


class FloatField(Field[FloatT]):
    """A float."""

    default_type = float
    allowed = (float,)


class DecimalField(Field[DecimalT]):
    """A Decimal, kept exactly."""

    default_type = Decimal
    allowed = (Decimal,)


class StringField(Field[StringT]):
    """A str."""

    default_type = str
    allowed = (str,)


class BooleanField(Field[BooleanT]):
    """A bool."""

    default_type = bool
    allowed = (bool,)


class SetField(Field[SetT]):
    """A set, stored in the record."""

    default_type = set
    allowed = (set,)


class TupleField(Field[TupleT]):
    """A tuple, stored in the record."""

    default_type = tuple
    allowed = (tuple,)


class DictField(Field[DictT]):
    """A dict, stored in the record."""

    default_type = dict
    allowed = (dict,)


class BytesField(Field[BytesT]):
    """Bytes, stored raw."""

    default_type = bytes
    allowed = (bytes,)


class DateField(Field[DateT]):
    """A date."""

    default_type = date
    allowed = (date,)


class TimeField(Field[TimeT]):
    """A time of day."""

    default_type = time
    allowed = (time,)


__all__ = [
    "BooleanField",
    "BytesField",
    "DateField",
    "DatetimeField",
    "DecimalField",
    "DictField",
    "FloatField",
    "IndexedField",
    "IntField",
    "ListField",
    "SetField",
    "StringField",
    "TimeField",
    "TupleField",
    "UniqueField",
]
