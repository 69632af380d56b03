"""Frames: stored as Arrow, read when they are asked for, and what can't come back as it was is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from popoto_async import (
    CorruptRecord,
    Database,
    DataFrameField,
    DefinitionError,
    Field,
    InvalidLookup,
    KeyField,
    Model,
    SortedField,
    ValidationError,
    trace,
)
from popoto_async.fields.dataframe_field import UnreadFrame, from_arrow, to_arrow
from tests.model_of_store import snapshot
from tests.servers import Server

pytestmark = pytest.mark.anyio


class Report(Model):
    name: str = KeyField()
    data = DataFrameField()
    note: str = Field(default="")


def sales() -> pd.DataFrame:
    """Six rows whose revenues sum up to 8790.45, with everything that gets lost elsewhere."""
    shops = pd.MultiIndex.from_tuples(
        [("Berlin", 1), ("Berlin", 2), ("Oslo", 1), ("Oslo", 2), ("Rome", 1), ("Rome", None)], names=["city", "shop"]
    )
    return pd.DataFrame(
        {
            "revenue": [1200.5, 2300.25, 815.7, 1999.0, 975.0, 1500.0],
            "sku": ["007", "042", "007", None, "1e5", "0"],
            "size": pd.Categorical(["S", "L", None, "S", "M", "L"], categories=["S", "M", "L", "XL"], ordered=True),
            "at": pd.to_datetime(["2024-01-01", "2024-03-31", None, "2024-10-27", "2024-07-01", "2024-12-24"])
            .tz_localize("Europe/Berlin"),
            "count": pd.array([1, None, 3, 4, 5, 2**62], dtype="Int64"),
            "paid": pd.array([True, False, None, True, True, False], dtype="boolean"),
            "score": np.array([1.5, np.nan, -0.0, np.inf, 0.1, 3], dtype="float32"),
        },
        index=shops,
    )  # fmt: skip


FRAMES: dict[str, Callable[[], pd.DataFrame]] = {
    "sales": sales,
    "empty": pd.DataFrame,
    "no rows": lambda: sales().iloc[:0],
    "texts as objects": lambda: pd.DataFrame({"a": pd.Series(["007", None], dtype=object)}),
    "numbers as objects": lambda: pd.DataFrame({"a": pd.Series([1, 2**62], dtype=object)}),
    "bools as objects": lambda: pd.DataFrame({"a": pd.Series([True, None], dtype=object)}),
    "nothing but nulls": lambda: pd.DataFrame({"a": pd.Series([None, None], dtype=object), "b": [np.nan, np.nan]}),
    "range": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(5, 9, 2, name="r")),
    "index of objects": lambda: pd.DataFrame({"a": [1]}, index=pd.Index(["007"], dtype=object)),
    "levels of objects": lambda: pd.DataFrame(
        {"a": [1, 2]}, index=pd.MultiIndex.from_arrays([pd.Index(["x", "y"], dtype=object), [1, 2]])
    ),
    "levels with zones": lambda: pd.DataFrame(
        {"a": [1, 2]},
        index=pd.MultiIndex.from_tuples([("a", pd.Timestamp("2024-01-01", tz="Asia/Tokyo")), ("b", pd.NaT)]),
    ),
    "an index named as a column": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.Index([3, 4], name="a")),
    "numbered columns": lambda: pd.DataFrame([[1, 2]]),
    "two levels of columns": lambda: pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    "columns as objects": lambda: pd.DataFrame([[1]], columns=pd.Index(["a"], dtype=object, name="names")),
    "small numbers": lambda: pd.DataFrame({"i": np.array([-1], "int8"), "u": np.array([2**64 - 1], "uint64")}),
    "exact": lambda: pd.DataFrame({"d": [Decimal("1.10"), None], "day": [date(2024, 2, 29), None]}),
    "bytes": lambda: pd.DataFrame({"b": [b"\x00", b"", None]}),
    "large numbers in levels with nulls": lambda: pd.DataFrame(
        {"a": [1, 2]},
        index=pd.MultiIndex(
            [pd.Index([2**62 + 1]), pd.Index([True]), pd.array([2**62 + 1], "Int64")], [[0, -1], [-1, 0], [0, -1]]
        ),
    ),
    "large numbers and a null in an index": lambda: pd.DataFrame(
        {"a": [1, 2]}, index=pd.Index(pd.array([2**62 + 1, None], "Int64"))
    ),
    "spans": lambda: pd.DataFrame(
        {
            "t": pd.to_timedelta([1, None], unit="s"),
            "p": pd.period_range("2024-01", periods=2, freq="M"),
            "i": pd.interval_range(0, 2),
        }
    ),
    "units": lambda: pd.DataFrame(
        {unit: np.array(["2024-01-01"], f"datetime64[{unit}]") for unit in ("s", "ms", "us", "ns")}
    ),
    "categories of numbers": lambda: pd.DataFrame({"c": pd.Categorical([3, 1, 3], categories=[9, 3, 1])}),
}  # fmt: skip
every_frame = pytest.mark.parametrize("kind", FRAMES)


# What survives -------------------------------------------------------------------------------------------------------


async def test_the_sum_of_revenue(db: Database) -> None:
    await Report.create(name="2024", data=sales())
    loaded = await Report.load(name="2024")
    assert loaded is not None
    assert loaded.data["revenue"].sum() == 8790.45
    assert list(loaded.data["sku"])[:3] == ["007", "042", "007"]
    assert loaded.data.dtypes.equals(sales().dtypes)
    assert [level.dtype for level in loaded.data.index.levels] == [level.dtype for level in sales().index.levels]
    pd.testing.assert_frame_equal(loaded.data, sales(), check_exact=True)


@every_frame
async def test_frames_come_back_as_they_were(db: Database, kind: str) -> None:
    """Values, dtypes, index, categories, zones and nulls, in every form; one trip."""
    frame = FRAMES[kind]()
    await Report.create(name="a", data=frame)
    async with trace() as traced:
        loaded = await Report.load(name="a")
    assert traced.round_trips == 1
    assert loaded is not None
    (one,) = await Report.query.all()
    (values,) = await Report.query.values("data")
    for found in (loaded.data, one.data, values["data"], one.to_dict()["data"]):
        pd.testing.assert_frame_equal(found, FRAMES[kind](), check_exact=True, check_freq=False)
        assert list(found.dtypes) == list(frame.dtypes)
        assert found.index.names == frame.index.names
    pd.testing.assert_frame_equal(frame, FRAMES[kind](), check_freq=False)


@every_frame
def test_what_was_read_is_written_alike(kind: str) -> None:
    """Else a frame that was only looked at would count as changed."""
    raw = to_arrow(FRAMES[kind]())
    assert to_arrow(from_arrow(raw)) == raw


# What is refused -----------------------------------------------------------------------------------------------------


REFUSED: dict[str, Callable[[], Any]] = {
    "no frame": lambda: [1, 2],
    "a series": lambda: pd.Series([1]),
    "text": lambda: "a,b",
    "mixed": lambda: pd.DataFrame({"a": [1, "x"]}),
    "ints and floats as objects": lambda: pd.DataFrame({"a": pd.Series([1, 2.5], dtype=object)}),
    "dicts": lambda: pd.DataFrame({"a": [{"x": 1}, {"y": 2}]}),
    "sets": lambda: pd.DataFrame({"a": [{1}]}),
    "lists": lambda: pd.DataFrame({"a": [[1], [2]]}),
    "columns of one name": lambda: pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "columns of mixed names": lambda: pd.DataFrame([[1, 2]], columns=["a", 1]),
    "complex": lambda: pd.DataFrame({"a": [1j]}),
    "sparse": lambda: pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}),
    "a level of mixed": lambda: pd.DataFrame({"a": [1, 2]}, index=pd.Index([1, "x"], dtype=object)),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_what_would_not_come_back_is_refused(db: Database, clean_server: Server, kind: str) -> None:
    report = Report(name="a", data=REFUSED[kind]())
    assert list(report.errors()) == ["data"]
    with pytest.raises(ValidationError):
        await report.save()
    assert snapshot(clean_server) == {}


async def test_a_frame_that_is_too_large(db: Database, clean_server: Server) -> None:
    class Small(Model):
        name: str = KeyField()
        data = DataFrameField(max_length=2000)

    await Small.create(name="a", data=pd.DataFrame({"a": [1.0]}))
    before = snapshot(clean_server)
    for verb in ("create", "save"):
        small = await Small.query.get_or_raise(name="a") if verb == "save" else Small(name="b")
        small.data = pd.DataFrame({"a": np.arange(1000.0)})
        with pytest.raises(ValidationError, match=r"at most 2,000 are allowed \(max_length\)"):
            await small.save()
    assert snapshot(clean_server) == before


def test_null_and_validators() -> None:
    class Strict(Model):
        name: str = KeyField()
        data = DataFrameField(null=False, validators=[lambda frame: "is empty" if frame.empty else None])
        made = DataFrameField(default=lambda: pd.DataFrame({"a": [1]}))

    one, two = Strict(name="a"), Strict(name="b", data=pd.DataFrame())
    assert (one.errors(), two.errors()) == ({"data": ["must not be null"]}, {"data": ["is empty"]})
    one.made.loc[0, "a"] = 2
    assert two.made.loc[0, "a"] == 1


@pytest.mark.parametrize(
    "declare",
    [
        lambda: {"data": DataFrameField(default=pd.DataFrame())},
        lambda: {"data": DataFrameField(indexed=True)},
        lambda: {"data": DataFrameField(unique=True)},
        lambda: {"data": DataFrameField(type=dict)},
        lambda: {"data": DataFrameField(choices=[pd.DataFrame()])},
        lambda: {"data": DataFrameField(max_length=0)},
        lambda: {"data": DataFrameField(), "n": SortedField(type=int, partition_by="data")},
    ],
)
def test_what_it_cannot_be(declare: Callable[[], dict[str, Any]]) -> None:
    with pytest.raises(DefinitionError):
        type("Wrong", (Model,), {"name": KeyField(), **declare()})


async def test_filters(db: Database) -> None:
    await Report.create(name="a", data=pd.DataFrame())
    await Report.create(name="b")
    with pytest.warns(UserWarning, match="no index"):
        assert await Report.query.filter(data__isnull=True).keys() == ["Report:b"]
    for lookups in ({"data": pd.DataFrame()}, {"data__in": [1]}, {"data__gte": 1}):
        with pytest.raises(InvalidLookup):
            Report.query.filter(**lookups)
    with pytest.raises(InvalidLookup):
        Report.query.order_by("data")


# Saving --------------------------------------------------------------------------------------------------------------


async def test_a_frame_nobody_reads_is_not_touched(db: Database, clean_server: Server) -> None:
    await Report.create(name="a", data=sales())
    one, two = await Report.query.get_or_raise(name="a"), await Report.query.get_or_raise(name="a")
    assert isinstance(one.__dict__["data"], UnreadFrame)
    assert "bytes" in repr(one)
    two.data = None
    await two.save()
    one.note = "changed"
    await one.save()
    assert isinstance(one.__dict__["data"], UnreadFrame)
    await two.refresh()
    assert (two.data, two.note) == (None, "changed")
    await one.refresh()
    assert one.data is None


async def test_changes_in_place_are_stored(db: Database) -> None:
    await Report.create(name="a", data=pd.DataFrame({"a": [1.5, 2.5]}))
    one = await Report.query.get_or_raise(name="a")
    one.data.loc[0, "a"] = 9.0
    one.data["b"] = ["x", None]
    await one.save()
    again = await Report.query.get_or_raise(name="a")
    pd.testing.assert_frame_equal(again.data, pd.DataFrame({"a": [9.0, 2.5], "b": ["x", None]}))
    again.note = "read, and not changed"
    other = await Report.query.get_or_raise(name="a")
    other.data = pd.DataFrame()
    await other.save()
    await again.save()
    assert (await Report.query.get_or_raise(name="a")).data.empty, "only what changed is written"


async def test_bytes_that_are_no_frame(db: Database, clean_server: Server) -> None:
    await Report.create(name="a", data=sales())
    clean_server.client.hset("Report:a", "data", b"somebody's")
    report = await Report.query.get_or_raise(name="a")
    for _ in range(2):
        with pytest.raises(CorruptRecord) as caught:
            assert report.data
        assert (caught.value.field, caught.value.key) == ("data", "Report:a")
    report.note = "still saved"
    await report.save()
    assert clean_server.client.hget("Report:a", "data") == b"somebody's"
    with pytest.raises(CorruptRecord):
        await Report.query.values("data")
    report.data = pd.DataFrame({"a": [1]})
    await report.save()
    assert list((await Report.query.get_or_raise(name="a")).data["a"]) == [1]


# Packages ------------------------------------------------------------------------------------------------------------


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "popoto_async.fields.dataframe_field.find_spec", lambda name: None if name == "pyarrow" else found(name)
    )
    with pytest.raises(DefinitionError, match="pyarrow") as caught:
        type("Wrong", (Model,), {"name": KeyField(), "data": DataFrameField()})
    assert "popoto_async[dataframe]" in str(caught.value.hint)


def test_declaring_and_loading_import_no_pandas() -> None:
    code = (
        "import sys\n"
        "from popoto_async import DataFrameField, KeyField, Model\n"
        "class Report(Model):\n"
        "    name = KeyField()\n"
        "    data = DataFrameField()\n"
        "Report._meta.decoders[1](b'raw')\n"
        "assert Report(name='a').is_valid() and not Report(name='a', data=1).is_valid()\n"
        "print({'pandas', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
