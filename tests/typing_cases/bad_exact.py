"""Each line marked `# E` is an error in both checkers, and no other line is."""

from decimal import Decimal

from popoto_async import Attr, AutoKeyField, GeoField, IndexedField, IntField, KeyField, Model, Q, SortedField


class Restaurant(Model):
    name: Attr[str] = KeyField()
    cuisine: str = IndexedField()
    seats: Attr[int] = IntField(default=0)
    rating = SortedField(type=float)
    price: Attr[Decimal] = SortedField(type=Decimal)


Restaurant("Siam Garden")  # E keyword only
Restaurant(name=3)  # E wrong type
Restaurant(cuisine=3)  # E wrong type, plain form
Restaurant(seats=None)  # E not nullable
Restaurant(nmae="x")  # E unknown
m = Restaurant(name="x", cuisine="Thai")
print(m.nmae)  # E
print(Restaurant.nmae)  # E
print(m.name.nonsense)  # E
print(Restaurant.name.nonsense)  # E
print(m.rating.nonsense)  # E
print(Restaurant.seats >= "3")  # E
print(Restaurant.price < "3")  # E
Restaurant.query.filter("name")  # E
Restaurant.query.filter(Restaurant.name)  # E not a condition
Restaurant.query.filter(m.name)  # E
x: int = m.name  # E
y: str = Restaurant.name  # E

m.name = 3  # E
m.cuisine = 3  # E
m.rating = "4"  # E
m.seats = None  # E
m.seats = "3"  # E

KeyField(nul=True)  # E unknown option
KeyField(null=3)  # E
IntField(strategy="ulid")  # E option of another kind
AutoKeyField(strategy=3)  # E
IntField(type=str)  # E
IndexedField(strategy="ulid")  # E
SortedField(partition_by=3)  # E
GeoField(default=(1.0, 2.0), nul=True)  # E


async def verbs() -> None:
    a: Restaurant = await Restaurant.load(name="x")  # E may be None
    b: list[str] = await Restaurant.query.filter()  # E
    for _ in Restaurant.query:  # E
        pass
    Restaurant.query.filtre()  # E
    Restaurant.query.filter(Q("name"))  # E
    Restaurant.query.exclude("name")  # E
    c: list[str] = await Restaurant.query.update(seats=3)  # E
    await Restaurant.query.page("10")  # E
    for _ in await Restaurant.query.page(10).rows:  # E
        pass
    Restaurant.create().name  # E not awaited
    await Restaurant.create(if_exists="never")  # E
    print(a, b, c)
