"""Datetimes that fill themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Unpack

from popoto_async.fields.base import Field, Options
from popoto_async.types import TypeVar

T = TypeVar("T", bound=datetime | None, default=datetime)


class DatetimeField(Field[T]):
    """A datetime, stored and read as aware UTC; naive input is taken as UTC.

    `auto_now` is refreshed by every save, partial ones too; `auto_now_add` is set by the first, unless a value was
    given. Both read the server's clock, once per save.
    """

    default_type = datetime
    allowed = (datetime,)

    def __init__(self, *, auto_now: bool = False, auto_now_add: bool = False, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.auto_now, self.auto_now_add = auto_now, auto_now_add
        self.stamps = auto_now or auto_now_add

    def stamp(self, value: Any, now: datetime, inserting: bool) -> Any:
        """`now` where this save is to set the field, else the value it has."""
        if self.auto_now or (self.auto_now_add and inserting and value is None):
            return now
        return value

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value; a missing one that the save will fill is not."""
        return [] if value is None and self.stamps else super().problems(value)
