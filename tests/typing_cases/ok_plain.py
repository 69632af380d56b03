"""`name: str = KeyField()`: the class looks like the value; `filter` takes what its comparisons seem to be."""

from datetime import datetime
from typing import assert_type

from popoto_async import (
    AutoKeyField,
    BooleanField,
    BytesField,
    DatetimeField,
    DictField,
    Field,
    GeoField,
    IndexedField,
    IntField,
    KeyField,
    ListField,
    Model,
    Query,
    SetField,
    SortedField,
    StringField,
    TupleField,
    UniqueField,
    UniqueKeyField,
)
from popoto_async.fields.geo_field import Coordinates


class Restaurant(Model):
    name: str = KeyField()
    number: int = UniqueKeyField()
    id: str = AutoKeyField()
    cuisine: str | None = IndexedField()
    code: str = UniqueField()
    rating: float = SortedField(type=float)
    seats: int | None = IntField()
    open: bool = BooleanField(default=True)
    photo: bytes | None = BytesField()
    tags: list[str] = ListField(default=list)
    marks: set[int] = SetField(default=set)
    pair: tuple[int, str] = TupleField()
    extra: dict[str, int] = DictField(default=dict)
    notes: list[str] = Field(default=list)
    title: str = StringField(default="")
    seen: datetime | None = DatetimeField(auto_now=True)
    place: Coordinates | None = GeoField()


m = Restaurant(name="x", number=3, rating=4, seats=None, tags=["a"], place=Coordinates(1.0, 2.0))
assert_type(m.name, str)
assert_type(m.number, int)
assert_type(m.cuisine, str | None)
assert_type(m.rating, float)
assert_type(m.seats, int | None)
assert_type(m.tags, list[str])
assert_type(m.pair, tuple[int, str])
assert_type(m.place, Coordinates | None)
m.name = "y"
assert_type(Restaurant.name, str)
assert_type(Restaurant.rating >= 4, bool)
assert_type(Restaurant.query.filter(Restaurant.name == "x", Restaurant.rating >= 4, cuisine="Thai"), Query[Restaurant])
