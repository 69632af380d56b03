"""No annotation: typed on access. `init=False` leaves the constructor as open as `create`."""

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Unpack, assert_type

from popoto_async import (
    Attr,
    AutoKeyField,
    BooleanField,
    BytesField,
    DateField,
    DatetimeField,
    DecimalField,
    DictField,
    Field,
    FloatField,
    GeoField,
    IndexedField,
    IntField,
    KeyField,
    ListField,
    Model,
    SetField,
    SortedField,
    SortedKeyField,
    StringField,
    TimeField,
    Timestampable,
    TupleField,
    UniqueField,
    UniqueKeyField,
)
from popoto_async.expressions import Condition
from popoto_async.fields.base import Options
from popoto_async.fields.geo_field import Coordinates


class Slug(Field[str]):
    """A user's own kind."""

    def __init__(self, separator: str = "-", **options: Unpack[Options]) -> None:
        super().__init__(type=str, **options)
        self.separator = separator


class Everything(Timestampable, Model, init=False):
    name = KeyField()
    number = KeyField(type=int)
    id = AutoKeyField()
    unique_key = UniqueKeyField()
    email = UniqueField()
    unique_number = UniqueField(type=int)
    cuisine = IndexedField(type=str)
    zone = IndexedField(type=int)
    rating = SortedField(type=float)
    plain_rating = SortedField()
    price = SortedField(type=Decimal, partition_by=("cuisine",))
    when = SortedKeyField(type=datetime)
    field = Field()
    count = Field(type=int, default=0)
    items = Field(type=list[str])
    an_int = IntField()
    a_float = FloatField(null=True)
    a_decimal = DecimalField(default=Decimal(1))
    a_string = StringField(max_length=5)
    a_bool = BooleanField()
    a_list = ListField()
    a_set = SetField()
    a_tuple = TupleField()
    a_dict = DictField()
    some_bytes = BytesField()
    a_date = DateField()
    a_datetime = DatetimeField(auto_now_add=True)
    a_time = TimeField()
    place = GeoField()
    slug = Slug(separator="_", null=False)
    maybe = SortedField[float | None](null=True)  # nullable without an annotation


m = Everything(name="x", rating=4.5, place=(1.0, 2.0))
assert_type(m, Everything)
assert_type(m.name, str)
assert_type(m.number, int)
assert_type(m.id, str)
assert_type(m.unique_key, str)
assert_type(m.email, str)
assert_type(m.unique_number, int)
assert_type(m.cuisine, str)
assert_type(m.zone, int)
assert_type(m.rating, float)
assert_type(m.plain_rating, float)
assert_type(m.price, Decimal)
assert_type(m.when, datetime)
assert_type(m.field, str)
assert_type(m.count, int)
assert_type(m.items, list[str])
assert_type(m.an_int, int)
assert_type(m.a_float, float)
assert_type(m.a_decimal, Decimal)
assert_type(m.a_string, str)
assert_type(m.a_bool, bool)
assert_type(m.a_list, list[Any])
assert_type(m.a_set, set[Any])
assert_type(m.a_tuple, tuple[Any, ...])
assert_type(m.a_dict, dict[Any, Any])
assert_type(m.some_bytes, bytes)
assert_type(m.a_date, date)
assert_type(m.a_datetime, datetime)
assert_type(m.a_time, time)
assert_type(m.place, Coordinates)
assert_type(m.slug, str)
assert_type(m.created_at, datetime)
assert_type(m.maybe, float | None)
m.name = "x"
m.place = (1.0, 2.0)

assert_type(Everything.name, KeyField[str])
assert_type(Everything.an_int, IntField[int])
assert_type(Everything.rating >= 4.0, Condition)
assert_type(Everything.rating >= 4, Condition)
assert_type(Everything.name == "x", Condition)
assert_type(Everything.slug == "x", Condition)
assert_type(Everything.slug.separator, str)

found = Everything._meta.fields["rating"]
assert isinstance(found, SortedField)


class Mixed(Model):
    slug: str = Slug()
    exact: Attr[str] = Slug()


assert_type(Mixed(slug="a", exact="b").exact, str)
