"""Lists: ListField, stored in the record; with `max_length`, a Redis list beside it, newest first, to push to."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, SupportsIndex, TypeVar, Unpack, overload

from popoto_async.codec import Codec, pack, unpack
from popoto_async.errors import ModelException, ValidationError, shorten
from popoto_async.fields.base import Field, Options
from popoto_async.plan import LIST, Index
from popoto_async.types import AnyT

ItemT = TypeVar("ItemT")


class CappedList(list[ItemT]):
    """The value of a list field with `max_length`: a list, newest item first, that can be pushed to."""

    __slots__ = ("_field", "_owner")

    _field: str
    _owner: Any

    def push(self, value: ItemT, /, *, timeout: float | None = None) -> Coroutine[Any, Any, int]:
        """Put a value before the others, on the server and here, and drop those beyond the cap; the length there.

        One atomic round trip: concurrent pushes lose nothing. RecordGone where the record was deleted or has expired;
        ModelException where it was never saved. Nothing else of the record is written: a push is no save.
        """
        try:
            owner, name = self._owner, self._field
        except AttributeError:
            raise ModelException(
                "this list belongs to no record", hint="push to the attribute: m.events.push(…)"
            ) from None
        pushing: Coroutine[Any, Any, int] = owner._push(name, self, value, timeout)
        return pushing

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return type(self), (list(self),)


class ListField(Field[list[AnyT]]):
    """A list, stored in the record.

    With `max_length`, at most that many items in a Redis list beside the record, newest first. It reads as a list that
    is empty when unset; `await m.events.push(x)` puts an item first in one atomic round trip. A save leaves it alone
    unless the field was assigned or changed in place, and then replaces it with the first `max_length` items.
    """

    default_type = list
    allowed = (list,)

    if TYPE_CHECKING:

        @overload
        def __new__(  # a list with a cap can be pushed to
            cls, type: type[list[AnyT]] | None = None, *, max_length: int, **options: Any
        ) -> CappedListField[AnyT]: ...
        @overload
        def __new__(cls, *args: Any, **options: Any) -> Self: ...
        def __new__(cls, *args: Any, **options: Any) -> Any:
            """Make a field."""


class CappedListField(ListField[AnyT]):
    """What a field of lists with `max_length` becomes when it is bound. It answers no filters."""

    lookups: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = True

    def __init__(self, type: Any = None, **options: Unpack[Options]) -> None:
        super().__init__(type, **options)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type) -> CappedList[AnyT]: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """The list, which learns here whose it is."""
        found = None if instance is None else instance.__dict__.get(self.name)
        if isinstance(found, CappedList):
            found._owner, found._field = instance, self.name
        if found is not None:
            return found
        reading: Any = super()
        return reading.__get__(instance, owner)

    def __set__(self, instance: object, value: list[AnyT]) -> None:
        """Python asks `__get__` before the instance's `__dict__` only where there is a `__set__`, too."""
        instance.__dict__[self.name] = self.normalise(value)

    # Values ------------------------------------------------------------------------------------------------------

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Name the key beside the record."""
        super().connect(fields)
        self.beside = f"List:{self.name}"

    def indexes(self) -> tuple[Index, ...]:
        """One key for each record, and no entries: whose it is follows from the record's key."""
        return (Index(self.beside, LIST, (), tailed=True),)

    def _codec(self) -> Codec:
        return Codec(list, self._texts, self._read)

    def initial(self) -> Any:
        """An empty list where there is no default."""
        return super().initial() if self.has_default else []

    def normalise(self, value: Any) -> Any:
        """A list of the record's own, without the items beyond the cap; None is the empty one."""
        if value is None:
            return CappedList()
        return CappedList(value[: self.limit]) if isinstance(value, list) else value

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a list, or with one of its items; that it is too long is not."""
        return super().problems(value[: self.limit] if isinstance(value, list) else value)

    def checked(self, value: Any) -> bytes | None:
        """The stored texts of the items; None where `problems` has something to say."""
        if self.unrestricted and isinstance(value, list):
            try:
                return self.codec.encode(value)
            except (ValueError, TypeError, OverflowError, RecursionError):
                return None
        return super().checked(value)

    def plain(self, value: Any) -> Any:
        """A list without `push`."""
        return list(value)

    def settle(self, value: Any) -> None:
        """Drop the items that a save did not store."""
        if isinstance(value, list):
            del value[self.limit :]

    def _texts(self, value: Any) -> Any:
        """The stored texts of the items: what stands for a value here that is one text elsewhere."""
        return [pack(item) for item in value[: self.limit]]

    def _read(self, raw: Any) -> Any:
        # A single text is the list of a record from before the field had a cap.
        items = [unpack(text) for text in raw] if isinstance(raw, list) else unpack(raw)
        if not isinstance(items, list):
            raise ValueError(f"not a list: {shorten(items)}")
        return CappedList(items[: self.limit])

    # Pushing -----------------------------------------------------------------------------------------------------

    def pushed(self, items: list[Any], value: Any) -> bytes:
        """The stored text of an item to put before others. ValidationError where it can't be stored."""
        try:
            text, found = pack(value), []
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            text, found = b"", [f"can't be stored: {error}"]
        if not found and not self.unrestricted:
            found = self.problems([value, *items])
        if found:
            raise ValidationError(
                f"{self.model}.{self.name}: {found[0]}",
                errors={self.name: found},
                model=self.model,
                field=self.name,
                value=value,
                hint="nothing was sent",
            )
        return text

    def after_push(self, items: list[Any], text: bytes) -> None:
        """Bring a list to what it is on the server after a push."""
        items.insert(0, unpack(text))
        del items[self.limit :]


Field.variants["capped"] = CappedListField
Field.stands_for[CappedList] = list
