"""References: an instance on both sides, awaitable; a class, its name or "self"."""

from typing import Any, ClassVar, assert_type

from popoto_async import CASCADE, Attr, KeyField, Model, Query, Relationship
from popoto_async.expressions import Condition


class Owner(Model):
    name: Attr[str] = KeyField()
    restaurants: ClassVar["Query[Restaurant]"]


class Restaurant(Model):
    name: Attr[str] = KeyField()
    owner: Attr[Owner] = Relationship(Owner, related_name="restaurants")
    sister: Attr["Restaurant | None"] = Relationship("self")
    brand: Attr[Owner | None] = Relationship(Owner, on_delete=CASCADE)
    plain = Relationship(Owner)
    named: "Attr[Later]" = Relationship("Later", on_delete="PROTECT")


class Later(Model):
    name: Attr[str] = KeyField()


r = Restaurant(name="x", owner=Owner(name="a"), sister=None)
assert_type(r.owner, Owner)
assert_type(r.sister, Restaurant | None)
assert_type(r.brand, Owner | None)
assert_type(r.plain, Owner)
assert_type(Owner.ref(name="b"), Owner)
r.owner = Owner.ref(name="c")
r.plain = "Owner:d"
assert_type(Restaurant.owner == r.owner, Condition)
assert_type(Restaurant.sister.isnull(), Condition)


async def awaiting(m: Restaurant, owner: Owner) -> None:
    assert_type(await m.owner, Owner)
    assert_type(await m, Restaurant)
    assert_type(await m.fetch("sister"), Any)
    assert_type(m.named, Later)
    assert_type(await Restaurant.query.filter(owner__name="a").prefetch("owner", "sister__owner"), list[Restaurant])
    assert_type(await owner.restaurants.filter(name="x"), list[Restaurant])
