"""What every kind of field promises about its values, without a server: validation, texts, tokens, scores, entries."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from popoto_async import (
    AutoKeyField,
    DatetimeField,
    Field,
    GeoField,
    IndexedField,
    InvalidLookup,
    KeyField,
    Model,
    SortedField,
    SortedKeyField,
    UniqueField,
    UniqueKeyField,
)
from popoto_async.fields import shortcuts
from popoto_async.fields.auto_key_field import Increasing
from popoto_async.fields.geo_field import Coordinates
from popoto_async.plan import CLAIM, MEMBER


class Colour(Enum):
    RED = "red"
    GREEN = "green: {}"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


def model_of(**namespace: Any) -> type[Model]:
    """A model class that is local, as those of a function are."""
    return type("R", (Model,), {"__qualname__": "<locals>.R", "__module__": __name__, **namespace})


def bound(field: Field[Any], **others: Field[Any]) -> Field[Any]:
    """The field as it is in a model, where it is called `value`."""
    return model_of(value=field, **others)._meta.fields["value"]


# Values --------------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=40)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
years = {"min_value": datetime(2, 1, 1), "max_value": datetime(9998, 1, 1)}
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False)
    | st.datetimes(timezones=st.none() | zones)
    | st.dates()
    | st.times(timezones=st.none() | zones)
    | st.uuids()
)
keys = st.integers() | texts | st.tuples(texts, st.integers()) | st.frozensets(st.integers(), max_size=3)
nested = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.sets(keys, max_size=3)
    ),
    max_leaves=8,
)

VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: st.integers() | st.integers(2**53 - 2, 2**53 + 2) | st.integers(2**60 - 2, 2**60 + 2),
    float: st.floats(allow_nan=False) | st.integers(-(2**53), 2**53),
    Decimal: st.decimals(allow_nan=False) | st.integers() | st.decimals(0, 1, places=20),
    str: texts | st.uuids(),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    date: st.dates(),
    datetime: st.datetimes(**years, timezones=st.none() | zones),
    time: st.times(timezones=st.none() | zones),
    UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    list: st.lists(nested, max_size=4),
    tuple: st.lists(nested, max_size=4).map(tuple),
    set: st.sets(keys, max_size=4),
    dict: st.dictionaries(keys, nested, max_size=4),
}
PLACES = st.builds(Coordinates, st.floats(-90, 90), st.floats(-180, 180))
TOKENS = (int, float, Decimal, str, bool, date, datetime, time, UUID, Colour, Level)
ORDERED = (int, float, Decimal, datetime, date, time)


def specimens() -> dict[str, tuple[Field[Any], st.SearchStrategy[Any]]]:
    """Every kind of field with every type it can hold, and the values of that type."""
    found = {f"Field-{kind.__name__}": (Field(type=kind, max_length=None), VALUES[kind]) for kind in VALUES}
    for each in (IndexedField, UniqueField, KeyField, UniqueKeyField):
        found |= {f"{each.__name__}-{kind.__name__}": (each(type=kind), VALUES[kind]) for kind in TOKENS}
    for each in (SortedField, SortedKeyField):
        found |= {f"{each.__name__}-{kind.__name__}": (each(type=kind), VALUES[kind]) for kind in ORDERED}
    found["SortedField-partitioned"] = SortedField(partition_by="other"), VALUES[float]
    found["DatetimeField"] = DatetimeField(), VALUES[datetime]
    found["GeoField"] = GeoField(), PLACES | st.tuples(st.integers(-90, 90), st.integers(-180, 180))
    found["AutoKeyField"] = AutoKeyField(), texts
    for name in shortcuts.__all__:
        each = getattr(shortcuts, name)
        if each not in {DatetimeField, IndexedField, UniqueField}:
            found[name] = each(), VALUES[each.default_type]
    return found


SPECIMENS = specimens()


@pytest.fixture(params=SPECIMENS)
def specimen(request: pytest.FixtureRequest) -> tuple[Field[Any], st.SearchStrategy[Any]]:
    field, values = SPECIMENS[request.param]
    others = {} if field.is_key else {"key": KeyField()}
    return bound(field, other=KeyField() if field.is_key else IndexedField(), **others), values


def test_what_is_stored_reads_back_equal_and_of_the_same_type(specimen) -> None:
    field, values = specimen

    @given(values)
    def check(given_value: Any) -> None:
        value = field.normalise(given_value)
        assert value == given_value or isinstance(given_value, (datetime, UUID))
        assert field.problems(value) == []
        raw = field.codec.encode(value)
        assert field.checked(value) == raw
        again = field.codec.decode(raw)
        assert again == value
        assert type(again) is type(value)
        assert field.codec.encode(again) == raw
        assert field.normalise(again) == again

    check()


def test_entries_are_pure_hashable_and_of_the_indexes_declared(specimen) -> None:
    field, values = specimen
    indexes = {index.name: index for index in field.indexes()}

    @given(values, texts)
    def check(value: Any, other: str) -> None:
        value = field.normalise(value)
        row = {"value": value, "other": other, "key": "k"}
        entries = field.entries(value, row)
        assert entries == field.entries(value, dict(row))
        assert len(set(entries)) == len(entries)
        for entry in entries:
            index = indexes[entry.name]
            assert bool(entry.tail) <= (index.tailed or index.kind != MEMBER)
            assert float(entry.score) == float(entry.score)
        if field.null:
            assert {entry.name for entry in field.entries(None, {**row, "value": None})} <= indexes.keys()

    check()


@pytest.mark.parametrize("kind", TOKENS)
def test_tokens_are_equal_exactly_where_values_are(kind: type) -> None:
    field = bound(IndexedField(type=kind))

    @given(VALUES[kind], VALUES[kind])
    def check(a: Any, b: Any) -> None:
        a, b = field.normalise(a), field.normalise(b)
        assert (field.part(a) == field.part(b)) is (a == b)
        assert field.part(a) != field.part(None)
        assert not set(field.part(a)) & set(":{}")

    check()


@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        (float, 0.0, -0.0),
        (Decimal, Decimal("1.10"), Decimal("1.1")),
        (Decimal, Decimal("1E+2"), Decimal(100)),
        (Decimal, Decimal("-0.00"), Decimal(0)),
        (Decimal, Decimal("1E+5000"), Decimal("10E+4999")),
        (datetime, datetime(2024, 1, 1, 12), datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))),
        (time, time(12, tzinfo=UTC), time(13, tzinfo=timezone(timedelta(hours=1)))),
    ],
)
def test_equal_values_share_a_token(kind: type, a: Any, b: Any) -> None:
    field = bound(IndexedField(type=kind))
    assert field.part(field.normalise(a)) == field.part(field.normalise(b))


@pytest.mark.parametrize("kind", ORDERED)
def test_scores_keep_the_order_and_ties_tell_apart_what_shares_one(kind: type) -> None:
    field = bound(SortedField(type=kind))

    @given(VALUES[kind], VALUES[kind])
    def check(a: Any, b: Any) -> None:
        try:
            a, b = sorted((field.normalise(a), field.normalise(b)))
        except TypeError:  # a naive time and an aware one have no order
            return
        assert float(field.score(a)) <= float(field.score(b))
        if a != b and float(field.score(a)) == float(field.score(b)):
            # Of values with one score, all but the one that is the score's own text stand among the ties.
            assert {len(field.entries(a, {})), len(field.entries(b, {}))} & {2}

    check()


@pytest.mark.parametrize("kind", [str, date, datetime])
def test_texts_that_are_compared_bytewise_are_in_the_order_of_their_values(kind: type) -> None:
    field = bound(Field(type=kind))

    @given(VALUES[kind], VALUES[kind])
    def check(a: Any, b: Any) -> None:
        a, b = field.normalise(a), field.normalise(b)
        assert (a < b) is (field.codec.encode(a) < field.codec.encode(b))

    check()


# Validation ----------------------------------------------------------------------------------------------------------

LONE = "\ud800"


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        (float, 3, 3.0),
        (Decimal, 3, Decimal(3)),
        (int, 2**200, 2**200),
        (str, UUID(int=7), str(UUID(int=7))),
        (str, "x" * 1024, "x" * 1024),
        (datetime, datetime(2024, 1, 2, 3), datetime(2024, 1, 2, 3, tzinfo=UTC)),
        (
            datetime,
            datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))),
            datetime(2023, 12, 31, 23, tzinfo=UTC),
        ),
        (int, Level.HIGH, 2),
        (list, [(1, {2}), Decimal("1.10"), Coordinates(1.0, 2.0)], [(1, {2}), Decimal("1.10"), (1.0, 2.0)]),
    ],
)
def test_accepted(kind: type, value: Any, becomes: Any) -> None:
    field = bound(Field(type=kind))
    normal = field.normalise(value)
    assert field.problems(normal) == []
    assert normal == becomes
    assert field.codec.decode(field.codec.encode(normal)) == becomes


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (bool, 1),
        (bool, "true"),
        (int, True),
        (int, "5"),
        (int, 5.0),
        pytest.param(int, 10**5000, id="int-of-5000-digits"),
        (float, "4.5"),
        (float, True),
        (float, Decimal("4.5")),
        pytest.param(float, 10**400, id="float-beyond-a-double"),
        (Decimal, 4.5),
        (Decimal, "4.5"),
        (Decimal, False),
        (str, 5),
        (str, b"x"),
        (str, "x" * 1025),
        (str, LONE),
        (bytes, "x"),
        (bytes, bytearray(b"x")),
        (date, datetime(2024, 1, 1)),
        (date, "2024-01-01"),
        (datetime, date(2024, 1, 1)),
        (datetime, datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
        (time, "12:00"),
        (UUID, "5"),
        (Colour, "red"),
        (Level, 1),
        (list, (1,)),
        (tuple, [1]),
        (set, frozenset({1})),
        (dict, [("a", 1)]),
        (list, [object()]),
        (list, [[LONE]]),
        (dict, {"a": Colour.RED}),
    ],
)
def test_refused(kind: type, value: Any) -> None:
    instance = model_of(value=Field(type=kind))(value=value)
    assert list(instance.errors()) == ["value"]
    assert not instance.is_valid()
    assert type(instance)._meta.fields["value"].checked(instance.value) is None
    if value != "x" * 1025:  # of the right type: nothing can equal it, but it may be asked for
        with pytest.raises(InvalidLookup):
            type(instance).query.filter(value=value)


def test_too_deep_a_list_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert bound(Field(type=list)).problems(deep) != []


@pytest.mark.parametrize(
    ("field", "fitting", "long"),
    [
        (Field(type=str, max_length=3), "äöü", "äöüß"),
        (Field(type=bytes, max_length=3), b"123", "ä¹".encode()),
        (Field(type=set, max_length=2), {1, 2}, {1, 2, 3}),
        (Field(type=str, max_length=None), "x" * 100_000, None),
        (KeyField(max_length=2), "ab", "abc"),
        (IndexedField(), "x" * 1024, "x" * 1025),
    ],
)
def test_max_length(field: Field[Any], fitting: Any, long: Any) -> None:
    field = bound(field)
    assert field.problems(fitting) == []
    if long is not None:
        assert "at most" in field.problems(long)[0]
        assert field.checked(long) is None


@pytest.mark.parametrize("each", [SortedField, SortedKeyField, IndexedField, KeyField, UniqueField, UniqueKeyField])
@pytest.mark.parametrize("value", [float("nan"), Decimal("NaN"), Decimal("sNaN")])
def test_nan_equals_nothing_and_stands_in_no_index(each: type[Field[Any]], value: Any) -> None:
    model = model_of(value=each(type=type(value)))
    assert "NaN" in model(value=value).errors()["value"][0]
    assert model._meta.fields["value"].checked(value) is None
    if issubclass(each, SortedField):
        with pytest.raises(InvalidLookup):
            model.query.filter(value__gte=value)


def test_nan_is_a_value_of_a_field_without_an_index() -> None:
    field = bound(Field(type=float))
    assert str(field.codec.decode(field.checked(float("nan")) or b"")) == "nan"


@pytest.mark.parametrize("value", [(95, 0), (-90.5, 0), (0, 181), (float("nan"), 0), (1, 2, 3), "1,2", (True, 0), (1,)])
def test_places_that_are_none(value: Any) -> None:
    instance = model_of(value=GeoField())(value=value)
    assert list(instance.errors()) == ["value"]
    assert type(instance)._meta.fields["value"].checked(instance.value) is None


@pytest.mark.parametrize("value", [(0, 0), (90, 180), (-90, -180), [1.5, 2], (-0.0, 0)])
def test_places(value: Any) -> None:
    instance = model_of(value=GeoField())(value=value)
    assert instance.is_valid()
    assert type(instance.value) is Coordinates
    assert instance.value == tuple(value)


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind is not bytes])
def test_bytes_that_are_no_value_do_not_decode(kind: type) -> None:
    with pytest.raises((ValueError, KeyError, ArithmeticError, msgspec.DecodeError)):
        bound(Field(type=kind)).codec.decode(b"\xff!")


PIECES = st.sampled_from(
    ["0", "-0", "1", "2.5", "-3", "e2", "e-0", ".", ",", "],[", "[", "]", " ", "inf", "nan", "", "_"]
)
JUNK = st.lists(PIECES, min_size=1, max_size=4).map(lambda pieces: "".join(pieces).encode()) | st.binary(max_size=3)


@st.composite
def columns(draw: st.DrawFn) -> tuple[Any, list[bytes | None]]:
    """A codec, and stored texts of many records: nulls among them at times, and what is no value."""
    kind = draw(st.just(float) | st.just(Coordinates) | st.sampled_from([*VALUES]))
    field = bound(GeoField() if kind is Coordinates else Field(type=kind, null=True, max_length=None))
    values = (PLACES if kind is Coordinates else VALUES[kind]).map(field.normalise).map(field.codec.encode)
    odd: tuple[st.SearchStrategy[bytes | None], ...] = (st.nothing(), st.none(), JUNK)
    return field.codec, draw(st.lists(values | draw(st.sampled_from(odd)), max_size=8))


def decoded(decode: Callable[[], Iterable[Any]]) -> str:
    """What decoding gives, -0.0 told apart from 0.0, or that it fails."""
    try:
        return repr(list(decode()))
    except Exception:
        return "no values"


FLOATS, POSITIONS = bound(Field(type=float)).codec, bound(GeoField()).codec


@given(columns())
@example((FLOATS, [b"-0", b"0"]))
@example((FLOATS, [b"0", b"-0"]))
@example((FLOATS, [b"1,2", b"3"]))
@example((FLOATS, [b"1", b"inf"]))
@example((POSITIONS, [b"-0,0"]))
@example((POSITIONS, [b"0,-0"]))
@example((POSITIONS, [b"1,2],[3,4", b"5,6"]))
@example((POSITIONS, [b"1,2,3", b"4"]))
def test_a_column_decodes_as_its_texts_do_one_by_one(column: tuple[Any, list[bytes | None]]) -> None:
    codec, texts = column
    alone = decoded(lambda: [None if text is None else codec.decode(text) for text in texts])
    assert decoded(lambda: codec.decode_all(texts)) == alone


def test_choices_and_validators_speak_for_themselves() -> None:
    def even(value: int) -> str | None:
        return None if value % 2 == 0 else "must be even"

    def small(value: int) -> None:
        if value > 8:
            raise ValueError("is too large")

    field = bound(Field(type=int, choices=range(2, 20), validators=[even, small]))
    assert field.problems(4) == []
    assert field.problems(9) == ["must be even", "is too large"]
    assert field.problems(1)[0].startswith("must be one of")
    assert field.problems("4")[0].startswith("must be int")
    assert field.checked(9) is None
    assert field.checked(4) == b"4"


def test_defaults_are_called_for_each_instance_and_ids_are_filled() -> None:
    model = model_of(id=KeyField(default=uuid4), tags=Field(type=list, default=list), n=Field(type=int, default=3))
    one, two = model(), model(n=None)
    assert one.tags == two.tags == []
    assert one.tags is not two.tags
    assert one.id != two.id
    assert len(one.id) == 36
    assert (one.n, two.n) == (3, None)


def test_a_cleared_field_with_a_clock_is_valid() -> None:
    model = model_of(at=DatetimeField(auto_now=True, null=False), other=DatetimeField(null=False))
    assert list(model().errors()) == ["other"]
    now = datetime(2024, 1, 1, tzinfo=UTC)
    field = model._meta.fields["at"]
    assert field.stamp(None, now, False) == now
    added = bound(DatetimeField(auto_now_add=True))
    assert added.stamp(None, now, True) == now
    assert added.stamp(None, now, False) is None
    assert added.stamp(datetime(2000, 1, 1), now, True) == datetime(2000, 1, 1)


# Ids -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "length"), [("uuid4", 32), ("ulid", 26), ("ksuid", 27)])
def test_ids_are_new_each_time_and_one_passed_in_is_kept(strategy: str, length: int) -> None:
    model = model_of(id=AutoKeyField(strategy=strategy))
    ids = [model().id for _ in range(2000)]
    assert len(set(ids)) == 2000
    assert {len(each) for each in ids} == {length}
    if strategy != "uuid4":
        assert ids == sorted(ids)
    assert model(id="mine").id == "mine"


def test_ids_increase_within_a_tick_and_when_the_clock_steps_back() -> None:
    ticks = iter([5] * 600 + [3] * 600 + [6, 2, 9])
    made = Increasing(lambda: next(ticks), 1, lambda tick, tail: f"{tick:04}{tail.hex()}")
    ids = [made() for _ in range(1203)]
    assert ids == sorted(set(ids))


FORK = """
import os
from popoto_async.fields.auto_key_field import STRATEGIES
made = {name: [make() for _ in range(3)] for name, make in STRATEGIES.items()}
read, write = os.pipe()
child = os.fork()
mine = {name: [make() for _ in range(100)] for name, make in STRATEGIES.items()}
if child == 0:
    os.write(write, repr(mine).encode())
    os._exit(0)
os.waitpid(child, 0)
theirs = eval(os.read(read, 100_000))
for name in STRATEGIES:
    assert not set(mine[name]) & set(theirs[name]), name
    assert name == "uuid4" or theirs[name] == sorted(theirs[name]), name
"""


def test_a_forked_child_repeats_no_id() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


# Entries -------------------------------------------------------------------------------------------------------------


def kinds_of_index(field: Field[Any]) -> dict[str, str]:
    return {index.name: index.kind for index in field.indexes()}


def test_which_indexes_a_kind_keeps() -> None:
    assert kinds_of_index(bound(Field())) == {}
    assert kinds_of_index(bound(KeyField())) == {}
    assert kinds_of_index(bound(KeyField(), other=KeyField())) == {"Index:value": MEMBER}
    assert kinds_of_index(bound(IndexedField())) == {"Index:value": MEMBER}
    assert kinds_of_index(bound(UniqueField())) == {"Uniq:value": CLAIM}
    assert kinds_of_index(bound(SortedField(type=date))) == {"Sort:value": MEMBER}
    assert kinds_of_index(bound(SortedField())) == {"Sort:value": MEMBER}
    assert kinds_of_index(bound(SortedField(type=int, null=True))).keys() == {"Sort:value", "Tie:value", "Null:value"}
    assert kinds_of_index(bound(GeoField())).keys() == {"Geo:value", "Pole:value"}


@pytest.mark.parametrize(
    ("flag", "plain", "kind"),
    [
        ("indexed", Field, IndexedField),
        ("unique", Field, UniqueField),
        ("unique", IndexedField, UniqueField),
        ("indexed", shortcuts.IntField, IndexedField),
        ("unique", shortcuts.StringField, UniqueField),
        ("indexed", DatetimeField, IndexedField),
    ],
)
def test_a_flag_makes_a_field_keep_an_index(flag: str, plain: type[Field[Any]], kind: type[Field[Any]]) -> None:
    field = bound(plain(**{flag: True}))
    assert isinstance(field, kind)
    assert isinstance(field, plain)
    assert field.type is plain.default_type
    assert kinds_of_index(field) == kinds_of_index(bound(kind()))
    assert field.null is (flag == "indexed")


def test_nothing_shares_a_tail_with_null_or_another_combination() -> None:
    field = bound(IndexedField())
    assert field.entries("None", {}) != field.entries(None, {})
    assert field.entries("%null", {}) != field.entries(None, {})
    partitioned = bound(SortedField(partition_by=("a", "b")), a=IndexedField(), b=IndexedField())
    rows = [{"a": "x:y", "b": "z"}, {"a": "x", "b": "y:z"}, {"a": None, "b": "x"}, {"a": "None", "b": "x"}]
    assert len({partitioned.entries(1.0, row) for row in rows}) == 4


@given(st.integers(2**53, 2**70))
@example(2**60)
@example(2**60 + 1)
def test_an_int_stands_among_the_ties_unless_its_score_names_it(value: int) -> None:
    field = bound(SortedField(type=int))
    assert (len(field.entries(value, {})) == 1) is (Decimal(field.score(value)) == value)
