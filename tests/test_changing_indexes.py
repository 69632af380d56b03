"""A field that has one index after the other: each is whole after a rebuild, and nothing is left of those before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async import (
    AlreadyExists,
    Database,
    Field,
    IndexedField,
    IndexNotBuilt,
    KeyField,
    Model,
    UniqueField,
    UniqueKeyField,
    UniqueViolation,
    connect,
    maintenance,
    transaction,
)
from tests.examples import examples
from tests.model_of_store import Dump, snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio

FORMS: dict[str, Any] = {
    "plain": lambda: Field(type=str),
    "indexed": lambda: IndexedField(type=str),
    "indexed, suffixes": lambda: IndexedField(type=str, suffixes=True),
    "unique": lambda: UniqueField(type=str),
    "unique, suffixes": lambda: UniqueField(type=str, suffixes=True),
}


def _class(form: str) -> Any:
    class Account(Model):
        name: str = KeyField()
        mail = FORMS[form]()

    return Account


CLASSES = {form: _class(form) for form in FORMS}
MAILS = ["ab", "ba", "a:b", "%", "abba", "", "b"]


def indexes_of(dump: Dump, model: Any) -> Dump:
    """Without a mirror that another class has declared: it is kept up for that one."""
    others = [b"$Slot", b"$Man:", *([] if model._meta.fields["mail"].suffixes else [b"$Rev:"])]
    return {key: value for key, value in dump.items() if key.startswith(b"$") and key[:5] not in others}


async def assert_answers(model: Any, rows: dict[str, str]) -> None:
    for text in ("a", "b", "ab", "%", ""):
        for lookup, holds in (
            ("eq", str.__eq__), ("contains", str.__contains__), ("startswith", str.startswith),
            ("endswith", str.endswith),
        ):  # fmt: skip
            wanted = sorted(f"Account:{name}" for name, mail in rows.items() if holds(mail, text))
            assert await model.query.filter(**{f"mail__{lookup}": text}).keys() == wanted, (lookup, text)


@examples(40)
@given(
    forms=st.lists(st.sampled_from([form for form in CLASSES if form != "plain"]), min_size=2, max_size=4),
    mails=st.lists(st.sampled_from(MAILS), max_size=4, unique=True),
    writes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(MAILS)), max_size=6),
    plain=st.booleans(),
)
def test_any_index_after_any_other(
    clean_server: Server, forms: list[str], mails: list[str], writes: list[tuple[int, int, str]], plain: bool
) -> None:
    """Programs of each class write before the last one is rebuilt; then it is as if that had been the only one."""

    async def run() -> None:
        models = [CLASSES[form] for form in (*forms, *(["plain"] if plain else []), forms[-1])]
        async with connect(clean_server.unix_url):
            clean_server.client.flushall()
            rows = {str(number): mail for number, mail in enumerate(mails)}
            for number, model in enumerate(models):
                await maintenance.rebuild(model)
                if number == 0:
                    await model.create_many({"name": name, "mail": mail} for name, mail in rows.items())
                for turn, name, mail in writes:
                    if turn == number and mail not in rows.values():
                        if str(name) in rows:
                            one = await model.load(name=str(name))
                            one.mail = rows[str(name)] = mail
                            await one.save()
                        elif name % 2:
                            rows[str(name)] = mail
                            await model.create(name=str(name), mail=mail)
                        elif rows:
                            gone, _ = rows.popitem()
                            await model.ref(name=gone).delete()
            last = models[-1]
            assert (await maintenance.rebuild(last)).left == 0
            assert (await maintenance.check(last)).clean
            await assert_answers(last, rows)
            after = indexes_of(snapshot(clean_server), last)
            clean_server.client.flushall()
            await last.create_many({"name": name, "mail": mail} for name, mail in rows.items())
            assert indexes_of(snapshot(clean_server), last) == after

    asyncio.run(run())


async def test_listed_texts_stay_when_an_index_becomes_unique(db: Database, clean_server: Server) -> None:
    """The list of texts is one for both, and stays true as the entries of the first go."""
    before, after = CLASSES["indexed"], CLASSES["unique"]
    await before.create_many({"name": str(n), "mail": mail} for n, mail in enumerate(MAILS))
    with pytest.raises(IndexNotBuilt):
        await after.query.filter(mail__contains="b").keys()
    assert (await maintenance.rebuild(after)).left == 0
    assert (await maintenance.check(after)).clean
    await assert_answers(after, {str(n): mail for n, mail in enumerate(MAILS)})
    with pytest.raises(UniqueViolation):
        await after.create(name="new", mail="ab")
    await after.ref(name="0").delete()
    assert b"ab" not in clean_server.client.zrange("$Val:Account:mail", 0, -1)


# A unique field that becomes a part of the key -----------------------------------------------------------------------


def _members() -> Any:
    class Outside(Model):
        name: str = KeyField()
        mail: str = UniqueField()

        class Meta:
            name = "Member"

    class Inside(Model):
        name: str = KeyField()
        mail: str = UniqueKeyField()

        class Meta:
            name = "Member"

    return Outside, Inside


Outside, Inside = _members()


@pytest.mark.parametrize("turn", [1, -1])
async def test_a_unique_field_that_enters_or_leaves_the_key(db: Database, clean_server: Server, turn: int) -> None:
    """No value gets two owners, once it is rebuilt; claims of both kinds stand apart."""
    before, after = (Outside, Inside)[::turn]
    await before.create_many({"name": f"n{n}", "mail": f"m{n}"} for n in range(3))
    with pytest.raises(IndexNotBuilt):
        await after.query.filter(mail="m1")
    with pytest.raises(UniqueViolation):
        await before.create(name="x", mail="m1")
    report = await maintenance.rebuild(after)
    assert (report.models[0].unbuilt, report.left) == ((), 3)
    assert {one.kind for one in report.models[0].damage if not one.repairable} == {"misplaced"}
    report = await maintenance.check(after)
    assert report.models[0].found == {"misplaced": 3}
    for _ in range(2):
        with pytest.raises((UniqueViolation, AlreadyExists)):
            await after.create(name="x", mail="m1", if_exists="error")
    (found,) = await after.query.filter(mail="m1")
    assert found.name == "n1"
    for one in await after.query:  # as docs/changing-models.md says
        async with transaction() as tx:
            tx.delete(one)
            tx.save(after(**one.to_dict()))
    assert (await maintenance.check(after)).clean
    assert sorted([one.mail for one in await after.query]) == ["m0", "m1", "m2"]
    for number in range(3):
        with pytest.raises(UniqueViolation):
            await after.create(name="x", mail=f"m{number}")
    keys = {key for key in snapshot(clean_server) if key.startswith(b"$Uniq")}
    assert keys == {b"$UniqKey:Member:mail" if after is Inside else b"$Uniq:Member:mail"}
