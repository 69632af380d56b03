"""`name: Attr[str] = KeyField()`: exact on the instance, on the class, in the constructor."""

from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal, assert_type
from uuid import UUID

from popoto_async import (
    Attr,
    AutoKeyField,
    DatetimeField,
    DecimalField,
    Field,
    GeoField,
    IndexedField,
    IntField,
    KeyField,
    ListField,
    Model,
    SortedField,
    UniqueField,
)
from popoto_async.expressions import Condition, Not, Or
from popoto_async.fields.geo_field import Coordinates


class Restaurant(Model):
    name: Attr[str] = KeyField()
    branch: Attr[int] = KeyField()  # the type comes from the annotation
    id: Attr[str] = AutoKeyField(strategy="ulid")
    cuisine: Attr[str] = IndexedField(type=str)
    email: Attr[str] = UniqueField()
    nick: Attr[str | None] = IndexedField(default=None)
    rating: Attr[float] = SortedField(type=float, partition_by="cuisine")
    price: Attr[Decimal] = DecimalField(null=False)
    seats: Attr[int | None] = IntField()
    visits: Attr[int] = IntField(default=0)
    notes: Attr[str | None] = Field(type=str)
    tags: Attr[list[str]] = ListField(default=list)
    events: ListField[str] = ListField(max_length=5)  # a kind as annotation
    opened: Attr[datetime] = DatetimeField(auto_now_add=True)
    place: Attr[Coordinates | None] = GeoField()


class Color(Enum):
    RED = 1


class Unusual(Model):
    color: Attr[Color] = IndexedField()
    level: Attr[Literal["low", "high"]] = IndexedField()  # no type=: str is not that Literal
    uuid: Attr[UUID] = KeyField(type=UUID)
    numbers: Attr[list[int]] = Field(type=list)


assert_type(Unusual(color=Color.RED, level="low", numbers=[1]).level, Literal["low", "high"])


class Visit(Model):
    at: GeoField.Coordinates = GeoField()
    place: GeoField = GeoField()  # a kind as annotation: its own rules of assignment


m = Restaurant(name="Siam Garden", rating=4.5, price=Decimal(3), seats=None, place=Coordinates(1.0, 2.0))
Restaurant()  # every argument is optional: what is missing is an error of save(), not of the constructor
assert_type(m.name, str)
assert_type(m.branch, int)
assert_type(m.id, str)
assert_type(m.email, str)
assert_type(m.nick, str | None)
assert_type(m.rating, float)
assert_type(m.price, Decimal)
assert_type(m.seats, int | None)
assert_type(m.visits, int)
assert_type(m.tags, list[str])
assert_type(m.events, list[str])
m.events = ["a"]
assert_type(m.opened, datetime)
assert_type(m.place, Coordinates | None)
m.name = "x"
m.seats = None
m.rating = 4

assert_type(Restaurant.name, Attr[str])
assert_type(Restaurant.rating >= 4, Condition)
assert_type(Restaurant.rating < 4.5, Condition)
assert_type(Restaurant.cuisine == "Thai", Condition)
assert_type(Restaurant.cuisine != "Thai", Not)
assert_type(Restaurant.nick.isnull(), Condition)
assert_type(Restaurant.opened >= datetime.now(UTC), Condition)
assert_type(Restaurant.cuisine.in_(["Thai", "Lao"]), Condition)
assert_type(Restaurant.cuisine.startswith("Th") | Restaurant.nick.contains("x"), Or)
assert_type((Restaurant.rating >= 4) & ~(Restaurant.cuisine == "Thai") | (Restaurant.visits > 3), Or)

visit = Visit(place=(40.74, -73.98))
assert_type(visit.place, Coordinates)
visit.place = (1.0, 2.0)


class Fusion(Restaurant):
    second: Attr[str] = IndexedField()


fusion = Fusion(name="x", second="Lao")
assert_type(fusion.name, str)
assert_type(Fusion.second == "Lao", Condition)


def generic(field: Attr[Any]) -> None:
    fields: set[Attr[Any]] = {field}  # hashable
    print(fields)
