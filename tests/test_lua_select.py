"""The select script against plain Python over the same rows, on both servers, read-only.

Records are random, dense in what is hard: shared scores, ties that a double can't tell apart, nulls, poles, the date
line. So are conditions, orders, pages and budgets, the small ones among them making every select a chain of calls.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from popoto_async.fields.geo_field import Coordinates, geohash, haversine
from tests.examples import examples
from tests.lua_servers import CLASS, VALUES, Records, Row, is_tie, run, score_of, script, store

COLOURS = ["red", "green", "blue", "grün"]
NUMBERS = [
    "-7", "-0.5", "0", "0.1", "0.10000000000000000001", "1", "1.0", "4.5", "4.5000000000000000001",
    "4.4999999999999999999", "1E+3", "1000", "1E+400", str(2**53), str(2**53 + 1), str(2**60), str(2**60 + 1),
    str(2**60 - 1), str(-(2**60) - 1), "1E-400",
]  # fmt: skip
TIMES = ["0000000007", "0000000007.25", "0000000007.5", "0000000008", "0000000009.75"]
PLACES = ["40.74,-73.98", "40.75,-73.99", "90,0", "-90,12.5", "85.2,179.9", "0,180", "0,-180", "0.001,179.999", "-85,3"]
BLOBS = [b"", b"\x00\xff", b"abc", b"\xff"]

keys = st.integers(0, 60).map("R:{}".format)
ordinary_rows = {
    "number": st.one_of(st.integers(-5, 5).map(str), st.sampled_from(NUMBERS)).map(str.encode),
    "when": st.sampled_from(TIMES).map(str.encode),
    "colour": st.sampled_from(COLOURS).map(str.encode),
    "place": st.one_of(
        st.sampled_from(PLACES),
        st.tuples(st.floats(-90, 90), st.floats(-180, 180)).map("{0[0]:.6f},{0[1]:.6f}".format),
    ).map(str.encode),
    "blob": st.sampled_from(BLOBS),
}
rows = st.fixed_dictionaries({}, optional=ordinary_rows)


@st.composite
def collections(draw: Any) -> dict[str, Row]:
    """Rows by key; every other one owns a claim."""
    found: dict[str, Row] = draw(st.dictionaries(keys, rows, max_size=40))
    return {key: {**row, "code": str(i).encode()} if i % 2 else dict(row) for i, (key, row) in enumerate(found.items())}


def range_node(name: str, low: str | None, high: str | None, how: str, strict: tuple[bool, bool]) -> dict[str, Any]:
    """A range as the planner writes it: inclusive scores, the exact bounds beside them."""
    exact = []
    if low is not None:
        exact.append(["gt" if strict[0] else "ge", low])
    if high is not None:
        exact.append(["lt" if strict[1] else "le", high])
    return {
        "t": "range",
        "z": f"$Sort:R:{name}",
        "lo": "-inf" if low is None else score_of(name, low.encode()),
        "hi": "+inf" if high is None else score_of(name, high.encode()),
        "tie": f"$Tie:R:{name}",
        "f": name,
        "c": how,
        "x": exact,
    }


def stored_node(values: list[bytes], name: str, how: str, op: str, operands: list[bytes]) -> dict[str, Any]:
    at = []
    for operand in operands if op == "in" else operands[:1] if op != "null" else []:
        at.append(len(values))
        values.append(operand)
    return {"t": "stored", "f": name, "c": how, "op": op, "v": at}


GEO = {"z": "$Geo:R:place", "pole": "$Pole:R:place", "f": "place"}
centres = st.sampled_from(PLACES).map(lambda text: dict(zip(("lat", "lon"), text.split(","), strict=True)))
lengths = st.one_of(st.sampled_from([0.0, 1.0, 2000.0, 250_000.0, 2.1e7]), st.floats(0, 2.5e7))
both = st.tuples(st.booleans(), st.booleans())
bounds = st.one_of(st.none(), st.sampled_from(NUMBERS))
stored_ops = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "in", "null"])


@st.composite
def trees(draw: Any) -> tuple[dict[str, Any] | None, list[bytes]]:
    """A condition and the values it refers to."""
    values: list[bytes] = []
    leaves = st.one_of(
        st.just({"t": "all"}),
        st.just({"t": "none"}),
        st.lists(st.sampled_from([*COLOURS, "absent"]), unique=True, max_size=3).map(
            lambda found: {"t": "any", "z": [VALUES + colour for colour in found]}
        ),
        st.builds(range_node, st.just("number"), bounds, bounds, st.just("number"), both),
        st.builds(
            range_node, st.just("when"), st.sampled_from(TIMES), st.one_of(st.none(), st.sampled_from(TIMES)),
            st.just("text"), both,
        ),
        st.lists(st.one_of(keys, st.just("R:gone")), max_size=8).map(lambda found: {"t": "keys", "k": found}),
        st.lists(st.integers(0, 45).map(str), min_size=1, max_size=8).map(
            lambda found: {"t": "claim", "h": "$Uniq:R:code", "v": found}
        ),
        st.builds(lambda centre, r: {"t": "near", **GEO, **centre, "r": r}, centres, lengths),
        st.builds(lambda centre, w, h: {"t": "box", **GEO, **centre, "w": w, "h": h}, centres, lengths, lengths),
        st.builds(stored_node, st.just(values), st.just("blob"), st.just("bytes"),
                  st.sampled_from(["eq", "ne", "in", "null"]),
                  st.lists(st.sampled_from(BLOBS), min_size=1, max_size=3)),
        st.builds(stored_node, st.just(values), st.just("number"), st.just("number"), stored_ops,
                  st.lists(st.sampled_from(NUMBERS).map(str.encode), min_size=1, max_size=3)),
    )  # fmt: skip
    nodes = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda found: {"t": "and", "n": found}),
            st.lists(inner, min_size=1, max_size=3).map(lambda found: {"t": "or", "n": found}),
            inner.map(lambda found: {"t": "not", "n": found}),
        ),
        max_leaves=6,
    )
    return draw(st.one_of(st.none(), nodes)), values


def index_order(name: str, how: str, desc: bool) -> dict[str, Any]:
    return {
        "by": "index", "z": f"$Sort:R:{name}", "nulls": f"$Null:R:{name}", "tie": f"$Tie:R:{name}", "f": name, "c": how,
        "desc": desc,
    }  # fmt: skip


orders = st.lists(
    st.one_of(
        st.builds(lambda desc: {"by": "key", "desc": desc}, st.booleans()),
        st.builds(index_order, st.just("number"), st.just("number"), st.booleans()),
        st.builds(index_order, st.just("when"), st.just("text"), st.booleans()),
        st.builds(lambda desc: {"by": "stored", "f": "colour", "c": "text", "desc": desc}, st.booleans()),
        st.builds(lambda desc: {"by": "stored", "f": "number", "c": "number", "desc": desc}, st.booleans()),
        centres.map(lambda centre: {"by": "distance", "f": "place", **centre}),
    ),
    max_size=2,
)
pages = st.fixed_dictionaries(
    {
        "offset": st.integers(0, 6),
        "limit": st.one_of(st.just(-1), st.integers(0, 8)),
        "budget": st.sampled_from([1, 3, 10, 2000]),
    }
)
searching = examples(120)


def check(records: Records, op: dict[str, Any], values: list[bytes]) -> None:
    expected = records.expected(op, values)
    names = ["number", "colour", "absent"]
    found = records.answer({**op, "mode": "rows", "fields": names}, values)
    assert found.keys == expected
    assert found.rows == [[records.rows[key].get(name) for name in names] for key in expected]
    assert records.answer({**op, "mode": "keys"}, values).keys == expected
    count = records.answer({**op, "mode": "count"}, values)
    assert count.count == len(expected)
    assert max(found.most_examined, count.most_examined) <= op["budget"]


@searching
@given(collections(), trees(), orders, pages)
def test_every_select_is_the_list_comprehension(server, collection, tree, order, page):
    store(server.client, collection)
    where, values = tree
    op = {**page, "order": order, **({"where": where} if where is not None else {})}
    check(Records(server.client, collection), op, values)


@searching
@given(
    st.dictionaries(keys, st.fixed_dictionaries({"number": ordinary_rows["number"], "place": ordinary_rows["place"]})),
    centres, lengths, orders, pages, st.sampled_from(NUMBERS),
)  # fmt: skip
def test_nearest_first(server, collection, centre, radius, more, page, low):
    """Few pass the second condition, though nearly all are expected to: more than one ring has to be searched."""
    store(server.client, collection)
    order = [{"by": "distance", "f": "place", **centre}, *more[:1]]
    near = {"t": "near", **GEO, **centre, "r": radius}
    values: list[bytes] = []
    unlike = {"t": "not", "n": stored_node(values, "number", "number", "lt", [low.encode()])}
    op = {**page, "order": order, "where": {"t": "and", "n": [near, unlike]}}
    check(Records(server.client, collection), op, values)


@searching
@given(
    st.dictionaries(keys, st.fixed_dictionaries({"number": st.sampled_from(NUMBERS).map(str.encode)}), min_size=5),
    bounds, st.booleans(), pages,
)  # fmt: skip
def test_a_range_in_its_own_order(server, collection, low, desc, page):
    store(server.client, collection)
    where = range_node("number", low, None, "number", (True, False))
    op = {**page, "where": where, "order": [index_order("number", "number", desc)]}
    check(Records(server.client, collection), op, [])


# Single promises ------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(server) -> Records:
    """3,000 records in two colours, numbered, on a grid of positions."""
    collection: dict[str, Row] = {
        f"R:{i:04}": {
            "colour": b"red" if i % 3 else b"blue",
            "number": str(i).encode(),
            "place": f"{40 + i // 60 / 1000},{-73 - i % 60 / 1000}".encode(),
        }
        for i in range(3000)
    }
    store(server.client, collection)
    return Records(server.client, collection)


BLUE = {"t": "any", "z": [VALUES + "blue"]}
FEW = {"t": "range", "z": "$Sort:R:number", "lo": "0", "hi": "(100"}
BY_NUMBER = {"by": "index", "z": "$Sort:R:number", "f": "number", "c": "number"}


def test_it_runs_read_only_and_so_would_not_write(server):
    store(server.client, {})
    with pytest.raises(redis.ResponseError, match=r"[Ww]rite commands are not allowed"):
        run(server.client, script("return redis.call('SET', KEYS[1], 'x')"))
    assert Records(server.client, {}).call({"mode": "count"}) == [b"ok", 0, 0]


@pytest.mark.parametrize("desc", [False, True])
@pytest.mark.parametrize(
    ("lo", "hi"), [("-inf", "-inf"), ("-inf", "1"), ("1", "inf"), ("inf", "inf"), ("(-inf", "(inf")]
)
def test_a_range_may_end_at_infinities(server, lo, hi, desc):
    numbers = ["-1E+400", "-1E+400", "-2", "1", "1", "7", "1E+400"]
    records = Records(server.client, {f"R:{i}": {"number": text.encode()} for i, text in enumerate(numbers)})
    store(server.client, records.rows)
    where = {"t": "range", "z": "$Sort:R:number", "lo": lo, "hi": hi}
    order = [{"by": "index", "z": "$Sort:R:number", "f": "number", "c": "number", "desc": desc}]
    in_range = [key.decode() for key in server.client.zrange("$Sort:R:number", lo, hi, byscore=True)]
    for budget in (2, 1500):
        op = {"mode": "keys", "where": where, "order": order, "budget": budget}
        assert records.answer(op).keys == in_range[:: -1 if desc else 1]


def test_a_page_of_an_equality_looks_at_little_more_than_the_page(many):
    status, keys, _, examined = many.call({"mode": "keys", "where": BLUE, "limit": 10})
    assert (status, keys[0], len(keys)) == (b"ok", b"R:0000", 10)
    assert examined <= 32


def test_a_page_along_an_index_looks_at_little_more_than_the_page(many):
    _, keys, _, examined = many.call(
        {"mode": "keys", "where": BLUE, "order": [{**BY_NUMBER, "desc": True}], "limit": 5}
    )
    assert keys == [b"R:2997", b"R:2994", b"R:2991", b"R:2988", b"R:2985"]
    assert examined <= 32


def test_an_offset_costs_nothing_where_the_index_answers_alone(many):
    _, keys, _, examined = many.call({"mode": "keys", "where": BLUE, "offset": 900, "limit": 3})
    assert keys == [b"R:2700", b"R:2703", b"R:2706"]
    assert examined <= 32


def test_nearest_first_looks_at_the_neighbourhood(many):
    centre = {"lat": "40.025", "lon": "-73.03"}
    op = {
        "mode": "keys", "limit": 5, "order": [{"by": "distance", "f": "place", **centre}],
        "where": {"t": "near", **GEO, **centre, "r": 50_000.0},
    }  # fmt: skip
    _, keys, _, examined = many.call(op)
    assert [key.decode() for key in keys] == many.expected(op)
    assert examined < 400


def test_nearest_first_goes_on_where_the_neighbourhood_has_too_few(many):
    """The rings that follow the first one bring what lies in them, and nothing twice."""
    centre = {"lat": "40.0", "lon": "-73.0"}
    near = {"t": "near", **GEO, **centre, "r": 50_000.0}
    values: list[bytes] = []
    far = {"t": "not", "n": stored_node(values, "number", "number", "lt", [b"600"])}
    op = {
        "mode": "keys", "limit": 300, "order": [{"by": "distance", "f": "place", **centre}],
        "where": {"t": "and", "n": [near, far]},
    }  # fmt: skip
    expected = many.expected(op, values)
    assert len(expected) == 300
    assert many.answer(op, values).keys == expected
    assert many.answer({**op, "limit": 3, "budget": 50}, values).keys == expected[:3]


def test_counts_by_index_examine_nothing(many):
    low = {"t": "range", "z": "$Sort:R:number", "lo": "(10", "hi": "+inf"}
    for where, expected in [(BLUE, 1000), (low, 2989), ({"t": "not", "n": BLUE}, 2000), ({"t": "all"}, 3000)]:
        assert many.call({"mode": "count", "where": where}) == [b"ok", expected, 0]
        assert many.call({"mode": "count", "where": where, "offset": 5, "limit": 10}) == [b"ok", 10, 0]


def test_an_exact_count_looks_at_ties_alone(server):
    collection: dict[str, Row] = {f"R:{i}": {"number": b"4.5"} for i in range(1000)}
    collection |= {"R:more": {"number": b"4.5000000000000000001"}, "R:less": {"number": b"4.4999999999999999999"}}
    store(server.client, collection)
    records = Records(server.client, collection)
    for op, expected in [("gt", 1), ("ge", 1001), ("lt", 1), ("le", 1001)]:
        high = op in {"lt", "le"}
        bound = (None, "4.5") if high else ("4.5", None)
        where = range_node("number", *bound, "number", (op == "gt", op == "lt"))
        assert records.call({"mode": "count", "where": where}) == [b"ok", expected, 0]


def test_a_full_page_ends_with_the_score_that_fills_it(server):
    """Where a shared score has ties its whole group is compared, over several calls, and nothing beyond it."""
    collection: dict[str, Row] = {f"R:{i:04}": {"number": b"4.5" if i < 200 else b"9"} for i in range(1000)}
    collection["R:0150"] = {"number": b"4.4999999999999999999"}
    store(server.client, collection)
    records = Records(server.client, collection)
    op = {"mode": "keys", "order": [{**BY_NUMBER, "tie": "$Tie:R:number"}], "limit": 3, "budget": 50}
    found = records.answer(op)
    assert found.keys == ["R:0150", "R:0000", "R:0001"]
    assert found.calls > 1
    assert found.examined == 200


def test_a_record_in_two_branches_counts_once_over_all_calls(many):
    where = {"t": "or", "n": [BLUE, {"t": "range", "z": "$Sort:R:number", "lo": "1500", "hi": "+inf"}]}
    found = many.answer({"mode": "count", "where": where, "budget": 100})
    assert found.count == 500 + 1500
    assert found.calls > 10
    assert found.most_examined <= 100


def test_a_walk_goes_on_where_its_last_member_has_gone(many):
    op = {"mode": "keys", "order": [BY_NUMBER], "budget": 40, "limit": -1}
    _, keys, _, _, cursor = many.call(op)
    last = keys[-1].decode()
    many.client.zrem("$Sort:R:number", last)
    many.client.zrem(CLASS, last)
    _, following, *_ = many.call({**op, "cursor": msgspec.Raw(cursor)})
    assert following[0].decode() == f"R:{len(keys):04}"


def test_a_walk_goes_on_where_its_last_member_has_moved(many):
    op = {"mode": "keys", "order": [BY_NUMBER], "budget": 40, "limit": -1}
    _, keys, _, _, cursor = many.call(op)
    many.client.zadd("$Sort:R:number", {keys[-1]: 2500.5})
    _, following, *_ = many.call({**op, "cursor": msgspec.Raw(cursor)})
    assert following[0].decode() == f"R:{len(keys):04}"


@pytest.mark.parametrize("order", [[], [BY_NUMBER], [{"by": "stored", "f": "colour", "c": "text"}, {"by": "key"}]])
def test_a_record_without_its_mark_is_no_record(many, order):
    many.client.hdel("R:0000", "$")
    many.client.delete("R:0003")
    _, keys, texts, *_ = many.call({"mode": "rows", "where": BLUE, "order": order, "limit": 2, "fields": ["colour"]})
    assert (keys, texts) == ([b"R:0006", b"R:0009"], [b"blue", b"blue"])
    assert many.call({"mode": "keys", "where": BLUE, "order": order, "limit": 2})[1] == keys


def test_nulls_in_a_row_keep_their_places(many):
    texts = many.call({"mode": "rows", "limit": 2, "fields": ["nothing", "number", "never"]})[2]
    assert texts == [None, b"0", None, None, b"1", None]


def test_a_cursor_is_plain_and_says_whether_its_parts_are_to_be_merged(many):
    for order, merged in [([BY_NUMBER], False), ([{"by": "stored", "f": "colour", "c": "text"}], True)]:
        status, *_, cursor = many.call({"mode": "keys", "order": order, "budget": 50})[:5]
        assert status == b"more"
        assert bool(msgspec.msgpack.decode(cursor)["sorted"]) is merged


def test_a_walk_that_finds_nothing_is_given_up_for_another_plan(many):
    """Conditions that hold at the wrong end of the order cost no more than twice the best plan."""
    last = {"t": "range", "z": "$Sort:R:number", "lo": "2900", "hi": "+inf"}
    op = {"mode": "keys", "where": last, "limit": 5, "budget": 50}
    found = many.answer(op)
    assert found.keys == [f"R:{i}" for i in range(2900, 2905)]
    assert found.calls <= 2 * 2 * 100 / 50 + 2


def test_one_answer_from_one_call_needs_no_merging(many):
    op = {
        "mode": "keys",
        "where": FEW,
        "order": [{"by": "stored", "f": "number", "c": "number"}],
        "offset": 2,
        "limit": 2,
    }
    assert many.call(op) == [b"ok", [b"R:0002", b"R:0003"], [], 100]


def test_keys_that_are_no_records_are_nobody(many):
    assert many.call({"mode": "count", "where": {"t": "keys", "k": ["R:0001", "R:nobody", "R:0001"]}})[1] == 1


def test_thousands_of_values_of_one_field(server):
    collection: dict[str, Row] = {f"R:{i:05}": {"colour": str(i).encode()} for i in range(3000)}
    store(server.client, collection)
    records = Records(server.client, collection)
    where = {"t": "any", "z": [f"{VALUES}{i}" for i in range(0, 3000, 2)]}
    found = records.answer({"mode": "keys", "where": where, "limit": -1})
    assert found.keys == sorted(collection)[::2]
    assert found.calls > 1


def test_the_grid_agrees_with_the_geo_index_of_the_server(server):
    """A geohash of ours is the server's: what GEOADD stores is found, what GEOSEARCH finds we find."""
    server.client.flushall()
    places = [Coordinates(latitude, longitude) for latitude in range(-84, 85, 12) for longitude in range(-180, 180, 17)]
    for i, place in enumerate(places):
        server.client.geoadd("$Geo:R:place", (place.longitude, place.latitude, f"R:{i}"))
        assert abs(int(server.client.zscore("$Geo:R:place", f"R:{i}")) - geohash(place)) <= 3
        server.client.hset(f"R:{i}", mapping={"$": "", "place": f"{place.latitude},{place.longitude}"})
        server.client.zadd(CLASS, {f"R:{i}": 0})
    records = Records(server.client, {})
    for centre in places[::7]:
        op = {
            "where": {"t": "near", **GEO, "lat": str(centre.latitude), "lon": str(centre.longitude), "r": 3_000_000.0}
        }
        ours = records.answer({**op, "mode": "keys", "limit": -1}).keys
        assert sorted(ours) == sorted(
            f"R:{i}" for i, place in enumerate(places) if haversine(centre, place) <= 3_000_000
        )


def test_the_order_of_bytes_where_the_locale_has_another(server):
    """The fragment's own comparison, which only other locales than C need."""
    body = (
        "-- include: lib/bytes.lua\n"
        "local replies = {}\n"
        "for i = 1, #ARGV, 2 do replies[#replies + 1] = bytes.compare(ARGV[i], ARGV[i + 1]) end\nreturn replies\n"
    )
    other = script(body).text.replace("'B' < 'a'", "false")
    assert other != script(body).text
    words = [b"", b"a", b"B", b"ab", b"a\x00", b"\xff", b"\x80b", "é".encode()]
    pairs = [(x, y) for x in words for y in words]
    expected = [(x > y) - (x < y) for x, y in pairs]
    for text in (script(body).text, other):
        assert server.client.eval_ro(text, 1, CLASS, *[word for pair in pairs for word in pair]) == expected


def test_ties_are_ties():
    """The hand-made records tell ties as the library does."""
    assert [text for text in NUMBERS if is_tie("number", text.encode())] == [
        "0.10000000000000000001", "4.5000000000000000001", "4.4999999999999999999", "1E+400", str(2**53 + 1),
        str(2**60), str(2**60 + 1), str(2**60 - 1), str(-(2**60) - 1), "1E-400",
    ]  # fmt: skip
