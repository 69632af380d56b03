"""What a model class may declare, what it inherits, and what it is told when it can't be."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from decimal import Decimal
from enum import Enum
from importlib import import_module
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import pytest

import popoto_async
from popoto_async import (
    Attr,
    AutoKeyField,
    DateField,
    DatetimeField,
    DefinitionError,
    Field,
    GeoField,
    IndexedField,
    IntField,
    KeyField,
    ListField,
    Model,
    ModelException,
    SortedField,
    SortedKeyField,
    StringField,
    Timestampable,
    UniqueField,
    UniqueKeyField,
    UnknownField,
)
from popoto_async.declaration import RESERVED

Cents = NewType("Cents", int)


class Size(Enum):
    SMALL = 1
    LARGE = 2


def model_of(*bases: type, **namespace: Any) -> type[Model]:
    """A model class that is local, as those of a function are."""
    return type("R", bases or (Model,), {"__qualname__": "<locals>.R", "__module__": __name__, **namespace})


def told(error: BaseException) -> str:
    """The message and the hint."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def refusal(**namespace: Any) -> str:
    with pytest.raises(DefinitionError) as caught:
        model_of(**namespace)
    assert isinstance(caught.value, ModelException)
    return told(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("fields.shortcuts", "IntField"),
        ("fields.shortcuts", "UniqueField"),
        ("fields.datetime_field", "DatetimeField"),
        ("fields.geo_field", "GeoField"),
        ("utils.mixins.timestampable", "Timestampable"),
    ],
)
def test_paths_that_users_of_popoto_know(path: str, name: str) -> None:
    assert getattr(import_module(f"popoto_async.{path}"), name) is getattr(popoto_async, name)


# Options of fields ---------------------------------------------------------------------------------------------------

NOT_NULL = (KeyField, SortedField, SortedKeyField, UniqueKeyField, UniqueField, AutoKeyField)


@pytest.mark.parametrize("kind", [Field, IndexedField, GeoField, DatetimeField, IntField, *NOT_NULL])
def test_null_is_allowed_where_it_is_not_said(kind: type[Field[Any]]) -> None:
    field = model_of(value=kind())._meta.fields["value"]
    assert field.null is (kind not in NOT_NULL)
    assert bool(field.problems(None)) is (kind in NOT_NULL)


@pytest.mark.parametrize("kind", [UniqueKeyField, UniqueField, AutoKeyField])
def test_what_must_be_there_for_ever_can_not_be_null(kind: type[Field[Any]]) -> None:
    with pytest.raises(ModelException, match="null=True"):
        kind(null=True)
    assert "admits None" in refusal(value=kind(), __annotations__={"value": str | None})


@pytest.mark.parametrize("kind", [UniqueKeyField, UniqueField])
def test_a_unique_field_is_unique(kind: type[Field[Any]]) -> None:
    assert kind(unique=True).always_unique
    with pytest.raises(ModelException, match="unique=False"):
        kind(unique=False)


ALWAYS_INDEXED = (KeyField, UniqueKeyField, UniqueField, IndexedField, SortedField, SortedKeyField, GeoField)


@pytest.mark.parametrize("kind", ALWAYS_INDEXED)
def test_an_index_that_is_always_there_can_not_be_declined(kind: type[Field[Any]]) -> None:
    """To ask for it is no mistake."""
    assert type(kind(indexed=True)) is kind
    with pytest.raises(DefinitionError, match="indexed=False") as caught:
        kind(indexed=False)
    assert "Field(type=tuple)" in str(caught.value.hint)


@pytest.mark.parametrize("kind", [Field, DatetimeField, IntField])
def test_an_index_that_is_declined(kind: type[Field[Any]]) -> None:
    assert not model_of(value=kind(indexed=False))._meta.fields["value"].indexes()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Field, {"nul": True}, "did you mean null"),
        (SortedField, {"partition": "x"}, "did you mean partition_by"),
        (AutoKeyField, {"stategy": "ulid"}, "did you mean strategy"),
        (DatetimeField, {"autonow": True}, "did you mean auto_now"),
        (IntField, {"strategy": "ulid"}, "known are"),
        (AutoKeyField, {"strategy": "uuid5"}, "uuid4, ulid, ksuid"),
        (AutoKeyField, {"default": "x"}, "fills itself"),
        (Field, {"null": "yes"}, "True or False"),
        (Field, {"choices": 5}, "a collection of values, not 5"),
        (Field, {"validators": len}, "a list of callables, not <built-in function len>"),
        (Field, {"validators": [5]}, "a list of callables, not"),
        (Field, {"indexed": 1}, "True or False"),
        (KeyField, {"unique": True}, "UniqueKeyField"),
        (SortedField, {"unique": True}, "UniqueField"),
        (GeoField, {"unique": True}, "UniqueField"),
        (Field, {"unique": True, "null": True}, "null=True"),
        (SortedField, {"partition_by": ["x"]}, "a str or a tuple"),
        (SortedField, {"partition_by": ("x", 3)}, "a str or a tuple"),
    ],
)
def test_an_option_that_can_not_be(kind: type[Field[Any]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        kind(**options)
    assert message in told(caught.value)
    assert kind.__name__ in str(caught.value) or "UniqueField" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field(type=object), "type <class 'object'> can't be declared"),
        (Field(type=frozenset), "can't be declared"),
        (IndexedField(type=list), "can't be declared"),
        (KeyField(type=bytes), "can't be declared"),
        (SortedField(type=str), "can't be declared"),
        (SortedField(type=Size), "can't be declared"),
        (IntField(type=str), "choose int"),
        (AutoKeyField(type=UUID), "choose str"),
        (ListField(indexed=True), "can't stand in an index"),
        (Field(type=Enum("Mixed", {"A": 1, "B": "x"})), "not of one type"),
        (Field(default=[]), "default=list"),
        (Field(default={"a": 1}), "default=lambda: {'a': 1}"),
        (Field(type=int, max_length=3), "max_length"),
        (Field(max_length=0), "max_length"),
        (Field(max_length=True), "max_length"),
        (GeoField(max_length=3), "max_length"),
        (SortedField(partition_by="nothing"), "partition_by names no field: nothing"),
        (SortedField(partition_by="value"), "partition_by can't name value"),
        (SortedField(partition_by=("other", "place")), "partition_by can't name place"),
    ],
)
def test_a_field_that_can_not_be(field: Field[Any], message: str) -> None:
    told = refusal(value=field, other=IndexedField(), place=GeoField())
    assert message in told
    assert "R.value" in told


def test_sort_by_is_the_old_name_of_partition_by() -> None:
    with pytest.warns(DeprecationWarning, match="partition_by") as caught:
        field = SortedField(sort_by="other")
    assert caught[0].filename == __file__
    assert model_of(value=field, other=IndexedField())._meta.fields["value"].partition == ("other",)
    with pytest.raises(DefinitionError, match="sort_by"):
        SortedField(sort_by="a", partition_by="b")


# Types from annotations ----------------------------------------------------------------------------------------------


class Annotating(Model):
    """Resolved from texts: this module postpones the evaluation of annotations."""

    key: str = KeyField()
    number: int = Field()
    maybe: int | None = KeyField()
    exact: Attr[Decimal] = SortedField()
    exact_maybe: Attr[date | None] = SortedField()
    size: Size = IndexedField()
    word: Literal["a", "b"] = IndexedField()
    ident: UUID = Field()
    cents: Cents = Field()
    noted: Annotated[int, "a note"] = Field()
    items: list[int] = Field()
    kind: SortedField[int] = SortedField()
    events: ListField[str] = ListField()
    place: GeoField = GeoField()
    given: int = Field(type=float)
    anything: Any = Field()
    date: date | None = DateField()
    items_of: list = Field(type=list[str])


def test_the_type_comes_from_the_annotation() -> None:
    fields = Annotating._meta.fields
    assert {name: field.type for name, field in fields.items()} == {
        "key": str, "number": int, "maybe": int, "exact": Decimal, "exact_maybe": date, "size": Size, "word": str,
        "ident": UUID, "cents": int, "noted": int, "items": list, "kind": int, "events": list,
        "place": GeoField.Coordinates, "given": float, "anything": str, "date": date, "items_of": list,
    }  # fmt: skip
    assert fields["maybe"].null
    assert fields["exact_maybe"].null
    assert not fields["exact"].null


def test_annotations_that_are_evaluated() -> None:
    types = {"a": int, "b": Attr[float | None], "c": Annotated[date, "x"], "d": str | None}
    fields = model_of(__annotations__=types, **{name: Field(null=False) for name in types})._meta.fields
    assert [field.type for field in fields.values() if not field.is_key] == [int, float, date, str]


@pytest.mark.parametrize("annotation", ["Unknown", "Attr[Unknown]", int | str, "int | str | None", "not a type", "a.b"])
def test_an_annotation_that_names_no_single_type_needs_a_type(annotation: Any) -> None:
    assert "type=" in refusal(value=Field(), __annotations__={"value": annotation})
    assert model_of(value=Field(type=int), __annotations__={"value": annotation})._meta.fields["value"].type is int
    assert model_of(value=IntField(), __annotations__={"value": annotation})._meta.fields["value"].type is int


def test_an_annotation_that_contradicts_its_field() -> None:
    assert "choose int" in refusal(value=IntField(), __annotations__={"value": str})


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names(name: str) -> None:
    assert f"'{name}' is reserved" in refusal(**{name: Field()})


@pytest.mark.parametrize(
    "name", ["id", "key", "data", "status", "events", "name", "type", "timeout", "model", "fields"]
)
def test_names_that_stay_free(name: str) -> None:
    assert name in model_of(**{name: Field()})._meta.fields
    assert name in model_of(**{name: KeyField()})._meta.fields


@pytest.mark.parametrize("name", ["a__b", "__a", "a__", "_a", "_key", "_meta"])
def test_names_that_could_be_mistaken(name: str) -> None:
    refusal(**{name: Field()})


@pytest.mark.parametrize("lookup", ["radius", "radius_unit", "member", "box", "with_distances"])
def test_names_of_lookups_of_another_field(lookup: str) -> None:
    assert f"place_{lookup}" in refusal(place=GeoField(), **{f"place_{lookup}": Field()})
    model_of(place=Field(), **{f"place_{lookup}": Field()})


def test_an_unknown_name_is_told_with_the_nearest_field() -> None:
    model = model_of(name=KeyField(), rating=Field(type=float))
    instance = model(name="x")
    for attempt in (lambda: model(nmae="x"), lambda: setattr(instance, "raiting", 3)):
        with pytest.raises(UnknownField) as caught:
            attempt()
        assert "did you mean" in told(caught.value)
    instance._free = 3
    assert instance._free == 3


# Inheritance ---------------------------------------------------------------------------------------------------------


def names(model: type[Model]) -> list[str]:
    return list(model._meta.fields)


class Base(Model):
    a = KeyField()
    b = Field()

    class Meta:
        abstract = True
        ttl = 60
        order_by = "a"


class Mixin:
    c = IndexedField(type=int)
    b = Field(type=int)


def test_fields_are_collected_along_the_mro() -> None:
    class Both(Mixin, Base):
        d = Field()

    class After(Base, Mixin):
        pass

    assert names(Both) == ["a", "b", "c", "d"]
    assert Both._meta.fields["b"].type is int
    assert After._meta.fields["b"].type is str
    assert names(After) == ["c", "b", "a"] or set(names(After)) == {"a", "b", "c"}


def test_each_class_has_its_own_fields() -> None:
    class Child(Base):
        pass

    assert Child.a is Child._meta.fields["a"]
    assert Child.a is not Base.a
    assert (Child.a.model, Base.a.model) == ("Child", "Base")
    assert (Child.a == "x").model == "Child"


def test_the_nearest_declaration_wins_in_a_diamond() -> None:
    class Left(Base):
        pass

    class Right(Base):
        b = Field(type=int)
        a = None
        e = KeyField()

        class Meta:
            order_by = "e"

    class Bottom(Left, Right):
        pass

    assert Bottom._meta.fields["b"].type is int
    assert names(Bottom) == ["b", "e"]


def test_none_removes() -> None:
    class Without(Base):
        b = None

    assert names(Without) == ["a"]
    with pytest.raises(UnknownField):
        Without(b="x")
    instance = Without(a="x")
    with pytest.raises(UnknownField):
        instance.b = "x"

    class Again(Without):
        b = Field(type=int)

    assert names(Again) == ["a", "b"]


def test_a_field_is_not_hidden_by_something_else() -> None:
    with pytest.raises(DefinitionError, match="hides the field b"):
        model_of(Base, b="text")


def test_a_model_without_a_key_gets_a_hidden_one_that_is_not_inherited() -> None:
    class Keyless(Model):
        text = Field()

        class Meta:
            abstract = True

    class Keyed(Keyless):
        id = AutoKeyField()

    assert names(Keyless) == ["_auto_key", "text"]
    assert len(Keyless()._auto_key) == 32
    assert Keyless(text="x").to_dict() == {"text": "x"}
    assert names(Keyed) == ["text", "id"]


def test_timestampable() -> None:
    class Article(Timestampable, Model):
        slug = KeyField()

    assert names(Article) == ["created_at", "updated_at", "slug"]
    assert Article(slug="x").is_valid()


# Meta ----------------------------------------------------------------------------------------------------------------


def test_meta_is_inherited_but_for_abstract_and_name() -> None:
    class Child(Base):
        class Meta:
            order_by = ("-b", "a")

    class Explicit(Base):
        class Meta(Base.Meta):
            ttl = 5

    class Named(Model):
        class Meta:
            name = "Other"

    class Heir(Named):
        pass

    assert (Child._meta.options.ttl, Child._meta.options.abstract) == (60, False)
    assert [(order.field, order.descending) for order in Child._meta.options.order_by] == [("b", True), ("a", False)]
    assert (Explicit._meta.options.ttl, Explicit._meta.options.abstract) == (5, False)
    assert Explicit._meta.options.order_by == Base._meta.options.order_by
    assert (Named._meta.options.name, Heir._meta.options.name) == ("Other", "Heir")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tll": 3}, "did you mean ttl"),
        ({"ttl": 0}, "positive"),
        ({"ttl": True}, "positive"),
        ({"ttl": float("nan")}, "positive"),
        ({"ttl": "1 day"}, "positive"),
        ({"order_by": "c"}, "names no field: c"),
        ({"order_by": 3}, "order_by"),
        ({"abstract": 1}, "True or False"),
        ({"name": ""}, "non-empty"),
        ({"name": "$Sort"}, "$"),
        ({"unique_together": "a"}, "unique_together"),
        ({"unique_together": ("a", "c")}, "['c']"),
        ({"unique_together": (("a", "b"), ("a", "c"))}, "['c']"),
        ({"unique_together": ("a", "tags")}, "tags can't be part of an index"),
        ({"indexes": ("a", "b")}, "pairs"),
        ({"indexes": 3}, "pairs"),
        ({"indexes": ((("a", "c"), True),)}, "['c']"),
        ({"indexes": ((("a", "b"), True), (("a", "b"), True))}, "two indexes"),
        ({"indexes": (((), True),)}, "names no field"),
    ],
)
def test_a_meta_that_can_not_be(options: dict[str, Any], message: str) -> None:
    assert message in refusal(a=KeyField(), b=Field(), tags=ListField(), Meta=type("Meta", (), options))


def test_meta_is_a_class() -> None:
    assert "Meta must be a class" in refusal(Meta=Field())
    assert "Meta must be a class" in refusal(Meta={"ttl": 3})


@pytest.mark.parametrize("together", [("a", "b"), (("a", "b"),), [["a", "b"]]])
def test_unique_together(together: Any) -> None:
    model = model_of(a=KeyField(), b=Field(), Meta=type("Meta", (), {"unique_together": together}))
    assert [(each.names, each.unique) for each in model._meta.composites] == [(("a", "b"), True)]


# Classes of one name -------------------------------------------------------------------------------------------------

TWICE = """
import sys
import types
from popoto_async import ModelException

def module(name, text):
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec("from popoto_async import *\\n" + text, vars(made))
    return made

item = "class Item(Model):\\n    id = KeyField()\\n"
first = module("first", item).Item
again = module("first", item + "    more = Field()\\n").Item
assert first is not again and list(again._meta.fields) == ["id", "more"]
try:
    module("second", item)
except ModelException as error:
    assert "first.Item" in str(error) and "second.Item" in str(error), error
else:
    raise AssertionError("two modules stored records under one name")
module("second", item + "    class Meta:\\n        name = 'Second'\\n")
module("third", item + "    class Meta:\\n        abstract = True\\n")
module("fourth", "def make():\\n    class Item(Model):\\n        id = KeyField()\\n    return Item\\nmake(), make()\\n")
"""


def test_a_name_belongs_to_one_module() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", TWICE], check=True, timeout=60)


def test_a_class_replaces_the_one_it_was_declared_after() -> None:
    def declare(text: str) -> type[Model]:
        return type("Replaced", (Model,), {"__module__": __name__, "text": StringField(default=text)})

    first, second = declare("1"), declare("2")
    assert (first().text, second().text) == ("1", "2")


def test_more_fields_than_one_command_can_read_are_refused() -> None:
    with pytest.raises(DefinitionError, match="Wide has 7001 fields, and 7000 is the most"):
        type("Wide", (Model,), {f"f{number}": Field() for number in range(7001)})
