"""Running the Lua fragments on a real server, without the rest of the library.

`Lua(server, body)` is a script of the fragments and a few lines that call them; `Records` are hand-made records with
their indexes, and the plain Python answer to every select.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cmp_to_key
from typing import Any

import msgspec

from popoto_async.fields.geo_field import LATITUDE_LIMIT, Coordinates, geohash, haversine
from popoto_async.scripts.loader import Script, assemble

HEADER = "-- purpose: a test\n-- keys: any\n-- args: as the test says\n-- reply: as the test says\n"
CLASS = "$Class:R"
VALUES = "$Index:R:colour:"

DECIMAL = """
-- include: lib/decimal.lua
local replies = {}
for i = 2, #ARGV - 1, 2 do
  replies[#replies + 1] = CALL or false
end
return replies
"""
"""Each pair of arguments put to one function; the pairs begin at ARGV[2]."""

SELECT = """
local operations = {}
-- include: select.lua
local header = cmsgpack.unpack(ARGV[1])
local op = header.ops[1]
return operations[op.op](header, op, header.models[op.m])
"""


def script(body: str) -> Script:
    return assemble("test.lua", HEADER + body)


def run(client: Any, what: Script, *arguments: Any) -> Any:
    """The reply of a script under EVAL_RO: whatever it does, it doesn't write."""
    return client.eval_ro(what.text, 1, CLASS, *arguments)


def call_decimal(client: Any, call: str, pairs: list[tuple[str, str]]) -> list[Any]:
    arguments = [text for pair in pairs for text in pair]
    replies: list[Any] = run(client, script(DECIMAL.replace("CALL", call)), "", *arguments)
    return replies


# Records --------------------------------------------------------------------------------------------------------------

ORDERED = {"number": "number", "when": "text"}
"""Fields with an order index, a tie set and a null set, and how their texts compare."""

Row = dict[str, bytes]


def score_of(name: str, text: bytes) -> str:
    """The score of an ordered value: for `when` the seconds, so that fractions of a second are ties."""
    value = text.decode()
    return repr(float(value.partition(".")[0])) if name == "when" else repr(float(value))


def is_tie(name: str, text: bytes) -> bool:
    return b"." in text if name == "when" else Decimal(score_of(name, text)) != Decimal(text.decode())


def position(text: bytes) -> Coordinates:
    latitude, longitude = text.decode().split(",")
    return Coordinates(float(latitude), float(longitude))


def indexed(key: str, row: Row) -> Iterator[tuple[str, str]]:
    """The sorted sets a record stands in, with its scores."""
    yield CLASS, "0"
    if "colour" in row:
        yield VALUES + row["colour"].decode(), "0"
    for name in ORDERED:
        if name not in row:
            yield f"$Null:R:{name}", "0"
            continue
        score = score_of(name, row[name])
        yield f"$Sort:R:{name}", score
        if is_tie(name, row[name]):
            yield f"$Tie:R:{name}", score
    if "place" in row:
        where = position(row["place"])
        if abs(where.latitude) > LATITUDE_LIMIT:
            yield "$Pole:R:place", "0"
        else:
            yield "$Geo:R:place", str(geohash(where))


def store(client: Any, rows: dict[str, Row]) -> None:
    client.flushall()
    pipe = client.pipeline(transaction=False)
    for key, row in rows.items():
        pipe.hset(key, mapping={"$": b"", **row})
        for index, score in indexed(key, row):
            pipe.zadd(index, {key: score})
        if "code" in row:
            pipe.hset("$Uniq:R:code", row["code"], key)
    pipe.execute()


# What a select must answer ------------------------------------------------------------------------------------------

SIGNS: dict[str, Callable[[int], bool]] = {
    "eq": lambda sign: sign == 0,
    "ne": lambda sign: sign != 0,
    "lt": lambda sign: sign < 0,
    "le": lambda sign: sign <= 0,
    "gt": lambda sign: sign > 0,
    "ge": lambda sign: sign >= 0,
}


def comparable(how: str, text: bytes) -> Any:
    return Decimal(text.decode()) if how == "number" else text


def compare(how: str, a: bytes, b: bytes) -> int:
    x, y = comparable(how, a), comparable(how, b)
    return int(x > y) - int(x < y)


def matches(node: dict[str, Any] | None, key: str, row: Row, values: list[bytes]) -> bool:
    """The condition of a select, in Python. A range node carries its exact conditions always."""
    if node is None:
        return True
    match node["t"]:
        case "all":
            return True
        case "none":
            return False
        case "any":
            return any(index in node["z"] for index, _ in indexed(key, row))
        case "range":
            text = row.get(node["f"])
            return text is not None and all(SIGNS[op](compare(node["c"], text, to.encode())) for op, to in node["x"])
        case "keys":
            return key in node["k"]
        case "claim":
            return "code" in row and row["code"].decode() in node["v"]
        case "near":
            return "place" in row and haversine(position(row["place"]), centre(node)) <= node["r"]
        case "box":
            return "place" in row and in_box(node, position(row["place"]))
        case "stored":
            return stored_matches(node, row.get(node["f"]), [values[at] for at in node["v"]])
        case "and":
            return all(matches(child, key, row, values) for child in node["n"])
        case "or":
            return any(matches(child, key, row, values) for child in node["n"])
        case "not":
            return not matches(node["n"], key, row, values)
    raise AssertionError(node)


def centre(node: dict[str, Any]) -> Coordinates:
    return Coordinates(float(node["lat"]), float(node["lon"]))


def in_box(node: dict[str, Any], where: Coordinates) -> bool:
    middle = centre(node)
    height = haversine(where, Coordinates(middle.latitude, where.longitude))
    width = haversine(where, Coordinates(where.latitude, middle.longitude))
    return bool(height <= node["h"] / 2 and width <= node["w"] / 2)


def stored_matches(node: dict[str, Any], text: bytes | None, operands: list[bytes]) -> bool:
    if text is None or node["op"] == "null":
        return text is None and node["op"] in {"null", "ne"}
    if node["op"] == "in":
        return any(compare(node["c"], text, operand) == 0 for operand in operands)
    return SIGNS[node["op"]](compare(node["c"], text, operands[0]))


def mark_of(by: dict[str, Any], key: str, row: Row) -> bytes | None:
    """What a record is ordered by, as the marks of a reply have it."""
    match by["by"]:
        case "key":
            return key.encode()
        case "distance":
            return repr(haversine(centre(by), position(row["place"]))).encode() if "place" in row else None
    text = row.get(by["f"])
    return score_of(by["f"], text).encode() if text is not None and kind_of(by) != by["c"] else text


def kind_of(by: dict[str, Any]) -> str:
    """How the marks of an order compare; without ties those of an index are scores."""
    scored = by["by"] == "distance" or (by["by"] == "index" and "tie" not in by)
    return "number" if scored or by.get("c") == "number" else "text"


def in_order(orders: list[dict[str, Any]], marked: list[tuple[str, list[bytes | None]]]) -> list[str]:
    """Keys with their marks, sorted: missing marks last, ties by key in the direction of the first order."""

    def before(a: tuple[str, list[bytes | None]], b: tuple[str, list[bytes | None]]) -> int:
        for by, x, y in zip(orders, a[1], b[1], strict=True):
            if x is None or y is None:
                if x is not y:
                    return 1 if x is None else -1
            elif sign := compare(kind_of(by), x, y):
                return -sign if by.get("desc") else sign
        sign = compare("text", a[0].encode(), b[0].encode())
        return -sign if orders[0].get("desc") else sign

    return [key for key, _ in sorted(marked, key=cmp_to_key(before))]


def significant(orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The orders a reply has marks for: none after a key, and no key that only repeats the tie rule."""
    kept: list[dict[str, Any]] = []
    for by in orders:
        if by["by"] != "key":
            kept.append(by)
            continue
        if not kept or bool(by.get("desc")) != bool(kept[0].get("desc")):
            kept.append(by)
        return kept
    return kept or [{"by": "key"}]


@dataclass
class Answer:
    """What the calls of one select gave together."""

    keys: list[str] = field(default_factory=list)
    rows: list[list[bytes | None]] = field(default_factory=list)
    count: int = 0
    calls: int = 0
    examined: int = 0
    most_examined: int = 0


@dataclass
class Records:
    """Rows on a server, and selects over them through the script and in Python."""

    client: Any
    rows: dict[str, Row]
    select: Script = field(default_factory=lambda: script(SELECT))

    def call(self, op: dict[str, Any], values: list[bytes] | tuple[bytes, ...] = ()) -> Any:
        model = {"class": CLASS, "man": "$Man:R", "exp": "$Exp:R", "slots": "$Slots:R", "text": "", "fields": []}
        header = {"models": [model], "ops": [{"op": "select", "m": 1, "at": 2, **op}]}
        return run(self.client, self.select, msgspec.msgpack.encode(header), *values)

    def answer(self, op: dict[str, Any], values: list[bytes] | tuple[bytes, ...] = ()) -> Answer:
        """All calls of a select, their parts merged as a client merges them."""
        whole = Answer()
        marked: list[tuple[str, list[bytes | None]]] = []
        columns: dict[str, list[bytes | None]] = {}
        while True:
            status, *reply = self.call(op, values)
            whole.calls += 1
            cursor = None
            if op["mode"] == "count":
                count, examined = reply[:2]
                whole.count += count
                cursor = reply[2] if status == b"more" else None
            else:
                keys, texts, examined, cursor, marks = (*reply, None, None)[:5]
                width = len(op["fields"]) if op["mode"] == "rows" else 0
                rows = [texts[at * width : (at + 1) * width] for at in range(len(keys))]
                keys = [key.decode() for key in keys]
                whole.keys += keys
                columns |= dict(zip(keys, rows, strict=True))
                if marks is not None:
                    marked += zip(keys, marks, strict=True)
            whole.examined += examined
            whole.most_examined = max(whole.most_examined, examined)
            assert (status == b"more") == (cursor is not None)
            if cursor is None:
                break
            op = {**op, "cursor": msgspec.Raw(cursor)}
            assert whole.calls < 100_000
        if marked:
            offset, limit = op.get("offset", 0), op.get("limit", -1)
            assert len(marked) == len(set(whole.keys)) == len(whole.keys)
            whole.keys = in_order(significant(op.get("order", [])), marked)[offset:]
            whole.keys = whole.keys if limit < 0 else whole.keys[:limit]
        whole.rows = [columns[key] for key in whole.keys if key in columns]
        return whole

    def expected(self, op: dict[str, Any], values: list[bytes] | tuple[bytes, ...] = ()) -> list[str]:
        orders = op.get("order") or [{"by": "key"}]
        found = [
            (key, [mark_of(by, key, row) for by in orders])
            for key, row in self.rows.items()
            if matches(op.get("where"), key, row, list(values))
        ]
        offset, limit = op.get("offset", 0), op.get("limit", -1)
        return in_order(orders, found)[offset : None if limit < 0 else offset + limit]
