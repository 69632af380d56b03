"""What the verbs and queries give."""

from typing import Any, assert_type

from popoto_async import (
    Attr,
    Explanation,
    IndexedField,
    KeyField,
    Model,
    Page,
    Q,
    Query,
    SortedField,
    Summary,
    transaction,
)
from popoto_async.expressions import Condition


class Restaurant(Model):
    name: Attr[str] = KeyField()
    cuisine: str = IndexedField()
    rating = SortedField(type=float)

    async def before_save(self) -> None:
        self.cuisine = self.cuisine.title()


async def verbs_of_the_class() -> None:
    created = await Restaurant.create(name="x", cuisine="Thai", rating=4.5, if_exists="error")
    assert_type(created, Restaurant)
    assert_type(await Restaurant.load(name="x"), Restaurant | None)
    assert_type(await Restaurant.exists(name="x"), bool)
    assert_type(await Restaurant.get_or_create(name="x", defaults={"rating": 3.0}), tuple[Restaurant, bool])
    assert_type(await Restaurant.update_or_create(name="x"), tuple[Restaurant, bool])
    assert_type(await Restaurant.create_many([{"name": "x"}, Restaurant(name="y")]), Summary)
    assert_type(await Restaurant.save_many([created]), Summary)
    assert_type(await Restaurant.delete_many([created]), Summary)


async def verbs_of_an_instance(m: Restaurant) -> None:
    assert_type(await m.save(update_fields=["name"], expire_in=3), bool)
    assert_type(await m.refresh("rating"), Restaurant)
    assert_type(await m.delete(), bool)
    assert_type(m.errors(), dict[str, list[str]])
    assert_type(m.to_dict(), dict[str, Any])
    assert_type(m.db_key.redis_key, str)
    assert_type(m.is_saved, bool)
    async with transaction() as tx:
        tx.save(m)


async def queries() -> None:
    assert_type(Restaurant.query, Query[Restaurant])
    query = Restaurant.query.filter(Restaurant.rating >= 4, Restaurant.cuisine == "Thai", Restaurant.name == "x")
    assert_type(query, Query[Restaurant])
    assert_type(await query, list[Restaurant])
    assert_type(await query[:10], list[Restaurant])
    assert_type(await query.order_by("-rating", Restaurant.name).limit(3).offset(1), list[Restaurant])
    assert_type(await query.first(), Restaurant | None)
    assert_type(await query.last(), Restaurant | None)
    assert_type(await query.get(name="x"), Restaurant | None)
    assert_type(await query.get_or_raise(name="x"), Restaurant)
    assert_type(await query.count(), int)
    assert_type(await query.exists(), bool)
    assert_type(await query.keys(), list[str])
    assert_type(await query.values("name"), list[dict[str, Any]])
    assert_type(query.exclude(Restaurant.name == "x", rating=4), Query[Restaurant])
    assert_type(await query.in_bulk(["x", "y"]), dict[Any, Restaurant])
    assert_type(await query.update(cuisine="Lao"), int)
    assert_type(await query.delete(), int)
    assert_type(await query.page(10), Page[Restaurant])
    assert_type(await query.values("name").page(10, cursor="x"), Page[dict[str, Any]])
    assert_type((await query.page(10)).cursor, str | None)
    assert_type([r.rating for r in await query.page(10)], list[float])
    assert_type(await query.explain(), Explanation)
    async for r in query:
        assert_type(r, Restaurant)
    assert_type([r.name async for r in query], list[str])


def trees() -> Query[Restaurant]:
    q = Q()
    for name in ("x", "y"):
        q |= Q(name=name, rating__gte=4)
    q &= ~Q(cuisine="Thai")
    assert_type(q | (Restaurant.rating >= 4), Q)
    assert_type(Q(Restaurant.cuisine == "Thai") & (Restaurant.cuisine == "Lao"), Q)
    return Restaurant.query.filter(q, Q(name="x") | Q(name="y"), Restaurant.rating < 5, (Restaurant.rating > 3) & q)


class Base(Model):
    name: Attr[str] = KeyField()

    @classmethod
    async def named(cls, name: str) -> "Base | None":
        return await cls.query.filter(cls.name == name).first()


condition: Condition = Base.name == "x"
