"""What must stand on a server, and what queries must answer, worked out from values by plain Python.

Nothing here asks the library how it plans: `keyspace` writes down, key by key, what `docs/architecture.md` says that a
set of records implies, and `holds` and `ordered` are the list comprehensions that queries have to agree with.

A row is `{field: value}`, a reference the key of what it refers to; rows of a model are `{record key: row}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import cmp_to_key
from math import asin, cos, radians, sin, sqrt
from typing import Any

import msgspec

from popoto_async import (
    AutoKeyField,
    GeoField,
    IndexedField,
    Model,
    Relationship,
    SortedField,
    UniqueField,
    UniqueKeyField,
)
from popoto_async.fields.base import Field
from tests.servers import Server

Values = dict[str, Any]
Rows = dict[str, Values]
Dump = dict[bytes, object]

INLINE = 64
"""Bytes up to which a manifest stands in its record."""

EDGE = 85.05112878
"""Degrees of latitude where the server's geo index ends."""


# Texts ---------------------------------------------------------------------------------------------------------------


def float_text(value: float) -> str:
    """The shortest of 15 to 17 digits that reads back as the same double."""
    return next(text for text in (f"{value:.{digits}g}" for digits in (15, 16, 17)) if float(text) == value)


def stored_text(value: Any) -> bytes:
    """A value as it stands in the record."""
    value = value.value if isinstance(value, Enum) else value
    if isinstance(value, bool):
        return b"1" if value else b"0"
    if isinstance(value, float):
        return float_text(value).encode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
    if isinstance(value, tuple):
        return f"{float_text(value[0])},{float_text(value[1])}".encode()
    if isinstance(value, list):
        return msgspec.msgpack.encode(value)
    return str(value).encode()


def read_text(kind: type, raw: bytes) -> Any:
    """The value of a stored text."""
    if kind is GeoField.Coordinates:
        latitude, longitude = raw.decode().split(",")
        return GeoField.Coordinates(float(latitude), float(longitude))
    if kind is object:  # of references
        return raw.decode()
    if kind is datetime:
        return datetime.strptime(raw.decode(), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    if kind is bool:
        return raw == b"1"
    if kind is list:
        return msgspec.msgpack.decode(raw)
    return kind(raw.decode())


def token(value: Any) -> str:
    """A value as one part of a key, escaped; equal for equal values."""
    if value is None:
        return "%null"
    if isinstance(value, Decimal):
        text = f"{value:f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return text if value else "0"
    if isinstance(value, float):
        value = value + 0.0
    return re.sub(r"[%:{}\x00-\x1f\x7f]", lambda found: f"%{ord(found[0]):02X}", stored_text(value).decode())


def score(value: Any) -> float:
    """The number that a sorted set orders a value by."""
    if isinstance(value, datetime):
        whole = value - datetime(1970, 1, 1, tzinfo=UTC)
        return float((whole.days * 86_400 + whole.seconds) * 10**6 + whole.microseconds)
    return float(value) + 0.0


def is_tie(value: Any) -> bool:
    """Whether the shortest text of the score is another number than the value."""
    if isinstance(value, datetime):
        whole = value - datetime(1970, 1, 1, tzinfo=UTC)
        value = (whole.days * 86_400 + whole.seconds) * 10**6 + whole.microseconds
    return not isinstance(value, float) and Decimal(repr(score(value))) != value


def geohash(latitude: float, longitude: float) -> int:
    """26 bits of each axis, longitude first, by halving."""
    found = 0
    rows = int((latitude + EDGE) / (2 * EDGE) * 2**26)
    columns = int((longitude + 180) / 360 * 2**26)
    for bit in range(25, -1, -1):
        for axis in (columns, rows):
            found = found * 2 + (min(axis, 2**26 - 1) >> bit & 1)
    return found


# What a row implies --------------------------------------------------------------------------------------------------


@dataclass
class Place:
    """One index: the line of the slot table that names it, and where a row stands in it: [(tail, score text), …].

    `lists` are the sorted sets that list its texts: (key, what is listed of a row, None for nothing).
    """

    line: str
    stands: Any
    lists: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        return self.line[1:].partition("\t")[0]

    @property
    def is_claim(self) -> bool:
        return self.line[0] != "m"


def _lists(model: str, one: IndexedField[Any], *, first: bool) -> list[tuple[str, Any]]:
    """Of texts: as they are and, where suffixes are wanted, reversed; not what the order of the keys lists already."""
    name = one.name
    if not (one.type is str or (issubclass(one.type, Enum) and isinstance(next(iter(one.type)).value, str))):
        return []

    def plain(row: Values) -> str | None:
        return None if row[name] is None else token(row[name])

    def reversed_text(row: Values) -> str | None:
        return None if row[name] is None else token(stored_text(row[name]).decode()[::-1])

    if one.suffixes:
        return [(f"$Val:{model}:{name}", plain), (f"$Rev:{model}:{name}", reversed_text)]
    unique = isinstance(one, (UniqueField, AutoKeyField))
    return [] if first and unique else [(f"$Val:{model}:{name}", plain)]


def _listing(place: Place, lists: list[tuple[str, Any]]) -> Place:
    return Place("\t".join([place.line, *(key for key, _ in lists)]), place.stands, lists)


def _value_place(model: str, name: str) -> Place:
    return Place(f"m$Index:{model}:{name}:", lambda row: [(token(row[name]), "0")])


def _reference_place(model: str, name: str) -> Place:
    return Place(f"m$Rel:{model}:{name}:", lambda row: [("%null" if row[name] is None else row[name], "0")])


def _claim_place(model: str, names: tuple[str, ...], kind: str) -> Place:
    def stands(row: Values) -> list[tuple[str, str]]:
        values = [row[name] for name in names]
        return [] if None in values else [(":".join(map(token, values)), "0")]

    prefix = "$UniqKey" if kind == "k" else "$Uniq"
    return Place(f"{kind}{prefix}:{model}:{'+'.join(names)}", stands)


def _combined_place(model: str, names: tuple[str, ...]) -> Place:
    def stands(row: Values) -> list[tuple[str, str]]:
        values = [row[name] for name in names]
        return [] if None in values else [(":".join(map(token, values)), "0")]

    return Place(f"m$Index:{model}:{'+'.join(names)}:", stands)


def _sorted_places(model: str, sort: SortedField[Any]) -> list[Place]:
    name, colon = sort.name, ":" if sort.partition else ""

    def where(row: Values) -> str:
        return ":".join(token(row[part]) for part in sort.partition)

    def order(row: Values) -> list[tuple[str, str]]:
        return [] if row[name] is None else [(where(row), float_text(score(row[name])))]

    def ties(row: Values) -> list[tuple[str, str]]:
        return [] if row[name] is None or not is_tie(row[name]) else order(row)

    found = [Place(f"m$Sort:{model}:{name}{colon}", order)]
    if sort.type in (int, Decimal, datetime):
        found.append(Place(f"m$Tie:{model}:{name}{colon}", ties))
    if sort.null:
        found.append(
            Place(f"m$Null:{model}:{name}{colon}", lambda row: [] if row[name] is not None else [(where(row), "0")])
        )
    return found


def _geo_places(model: str, name: str) -> list[Place]:
    def inside(row: Values) -> list[tuple[str, str]]:
        position = row[name]
        return [] if position is None or abs(position[0]) > EDGE else [("", str(geohash(*position)))]

    def beyond(row: Values) -> list[tuple[str, str]]:
        return [("", "0")] if row[name] is not None and abs(row[name][0]) > EDGE else []

    return [Place(f"m$Geo:{model}:{name}", inside), Place(f"m$Pole:{model}:{name}", beyond)]


def places(model: type[Model]) -> list[Place]:
    """The indexes of a model, in the order of their slots."""
    name, fields = model._meta.options.name, model._meta.fields
    keys = [one.name for one in fields.values() if one.is_key]
    sole = len(keys) == 1
    found: list[Place] = []
    for one in fields.values():
        if isinstance(one, SortedField):
            found += _sorted_places(name, one)
        elif isinstance(one, Relationship):
            found.append(_reference_place(name, one.name))
        elif isinstance(one, GeoField):
            found += _geo_places(name, one.name)
        elif cap_of(one):
            found.append(Place(f"l$List:{name}:{one.name}:", lambda row: []))
        elif isinstance(one, UniqueField):
            claim = _claim_place(name, (one.name,), "k" if isinstance(one, UniqueKeyField) else "c")
            found.append(_listing(claim, _lists(name, one, first=one.name == keys[0])))
        elif isinstance(one, IndexedField) and not (one.is_key and sole):
            found.append(_listing(_value_place(name, one.name), _lists(name, one, first=one.name == keys[0])))
    meta = getattr(model, "Meta", None)
    for names in getattr(meta, "unique_together", ()):
        found.append(_claim_place(name, names, "c"))
    for names, unique in getattr(meta, "indexes", ()):
        found.append(_claim_place(name, names, "c") if unique else _combined_place(name, names))
    return found


def cap_of(one: Field[Any]) -> int:
    """The most items of a field whose list stands beside the record; 0 for any other field."""
    return one.max_length or 0 if one.type is list else 0


def list_key(model: type[Model], name: str, key: str) -> str:
    """Where the list of a record stands: the record's key with another beginning."""
    own = model._meta.options.name
    return f"$List:{own}:{name}:{key.removeprefix(own + ':')}"


def record_key(model: type[Model], row: Mapping[str, Any]) -> str:
    """The key of the record with these values."""
    keys = [one.name for one in model._meta.fields.values() if one.is_key]
    return ":".join([model._meta.options.name, *(token(row[name]) for name in keys)])


def claims(model: type[Model], row: Values) -> list[tuple[str, str]]:
    """What a row claims for itself: (index key, field)."""
    return [(place.prefix, tail) for place in places(model) if place.is_claim for tail, _ in place.stands(row)]


def slot_table(model: type[Model], indexes: list[Place]) -> str:
    """A line for each index; then, sorted, that each holds every record, and the types of what it is made of."""
    fields, said = model._meta.fields, []
    for place in indexes:
        if place.line.startswith("l"):
            continue  # a list stands beside its record, and is no index
        kind, _, rest = place.prefix.removeprefix("$").partition(":")
        names = rest.split(":")[1].split("+")
        if kind in ("Sort", "Tie", "Null"):
            names += fields[names[0]].partition
        forms = ",".join(f"{name}:{_stored_type(fields[name].type).__name__}" for name in names)
        said.append(f"{kind}:{rest.split(':')[1]}={forms}")
        said += [f"{':'.join(key.removeprefix('$').split(':')[::2])}={forms}" for key, _ in place.lists]
    return "\n".join(place.line for place in indexes) + "\n\n" + "\n".join(sorted(said))


def _stored_type(kind: type) -> type:
    """What values of a type are stored as: of an Enum, its own values."""
    return type(next(iter(kind)).value) if issubclass(kind, Enum) else kind


# The keyspace --------------------------------------------------------------------------------------------------------


@dataclass
class _Store:
    """Collects sorted sets, hashes and strings."""

    zsets: dict[str, dict[bytes, float]] = field(default_factory=dict)
    hashes: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    lists: dict[str, list[bytes]] = field(default_factory=dict)

    def add(self, key: str, member: str, at: float) -> None:
        self.zsets.setdefault(key, {})[member.encode()] = at

    def put(self, key: str, name: str, value: bytes) -> None:
        self.hashes.setdefault(key, {})[name.encode()] = value

    def dump(self) -> Dump:
        """In the form of `servers.dump`."""
        found: Dump = {key.encode(): dict(sorted(value.items())) for key, value in self.hashes.items()}
        for key, members in self.zsets.items():
            found[key.encode()] = sorted(members.items(), key=lambda item: (item[1], item[0]))
        found.update((key.encode(), text) for key, text in {**self.texts, **self.lists}.items())
        return dict(sorted(found.items()))


def keyspace(
    rows: Mapping[type[Model], Rows],
    deadlines: Mapping[str, float] | None = None,
    versions: Mapping[str, bytes] | None = None,
    known: Iterable[type[Model]] = (),
) -> Dump:
    """Every key that these records imply, with its content. `deadlines` are in ms, by record key, `versions` likewise;
    `known` are models whose slot tables stand on the server though they may have no records."""
    store, deadlines, versions = _Store(), deadlines or {}, versions or {}
    known = set(known)
    for model in {**rows, **dict.fromkeys(known)}:
        name, indexes = model._meta.options.name, places(model)
        if indexes and (model in known or rows.get(model)):
            store.texts[f"$Slots:{name}"] = slot_table(model, indexes).encode()
        for key, row in rows.get(model, {}).items():
            store.add(f"$Class:{name}", key, 0.0)
            entries = []
            for listing, listed in [each for place in indexes for each in place.lists]:
                if (text := listed(row)) is not None:
                    store.add(listing, text, 0.0)
            for slot, place in enumerate(indexes):
                for tail, at in place.stands(row):
                    entries.append((slot, tail, at))
                    if place.is_claim:
                        store.put(place.prefix, tail, key.encode())
                    else:
                        store.add(place.prefix + tail, key, float(at))
            manifest = msgspec.msgpack.encode([item for entry in sorted(entries) for item in entry])
            outside = len(manifest) > INLINE or key in deadlines
            store.put(key, "$", b"" if outside else manifest)
            if outside:
                store.put(f"$Man:{name}", key, manifest)
            if key in deadlines:
                store.add(f"$Exp:{name}", key, deadlines[key])
            if key in versions:
                store.put(key, "$v", versions[key])
            _store_values(store, model, key, row)
    return store.dump()


def _store_values(store: _Store, model: type[Model], key: str, row: Values) -> None:
    for name, value in row.items():
        if value is None:
            continue
        if not cap_of(model._meta.fields[name]):
            store.put(key, name, stored_text(value))
        elif value:
            store.lists[list_key(model, name, key)] = [msgspec.msgpack.encode(item) for item in value]


_READS: dict[bytes, Any] = {
    b"string": lambda pipe, key: pipe.get(key),
    b"hash": lambda pipe, key: pipe.hgetall(key),
    b"zset": lambda pipe, key: pipe.zrange(key, 0, -1, withscores=True),
    b"list": lambda pipe, key: pipe.lrange(key, 0, -1),
    b"set": lambda pipe, key: pipe.smembers(key),
    b"stream": lambda pipe, key: pipe.xrange(key),
}


def observed(server: Server) -> tuple[Dump, dict[str, float]]:
    """As `servers.dump` and `servers.deadlines`, in three round trips, without what the lanes remember."""
    keys = sorted(key for key in server.client.keys("*") if not key.startswith(b"$Lane:"))
    with server.client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.type(key)
            pipe.pexpiretime(key)
        answers = pipe.execute()
        kinds, ends = dict(zip(keys, answers[::2], strict=True)), dict(zip(keys, answers[1::2], strict=True))
        keys = [key for key in keys if kinds[key] != b"none"]
        for key in keys:
            _READS[kinds[key]](pipe, key)
        values = pipe.execute()
    found = {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value
        for key, value in zip(keys, values, strict=True)
    }
    return found, {key.decode(): float(at) for key, at in ends.items() if at > 0}


def snapshot(server: Server) -> Dump:
    """Everything on the server but what the lanes remember."""
    return observed(server)[0]


def rows_of(dump: Dump, models: Iterable[type[Model]]) -> dict[type[Model], Rows]:
    """The rows of the records that stand in a dump."""
    found: dict[type[Model], Rows] = {}
    for model in models:
        fields: Mapping[str, Field[Any]] = model._meta.fields
        prefix = f"{model._meta.options.name}:".encode()
        found[model] = {
            key.decode(): {
                name: [
                    msgspec.msgpack.decode(item) for item in dump.get(list_key(model, name, key.decode()).encode(), [])
                ]
                if cap_of(one)
                else read_text(one.type, value[name.encode()])
                if name.encode() in value
                else None
                for name, one in fields.items()
            }
            for key, value in dump.items()
            if key.startswith(prefix) and isinstance(value, dict)
        }
    return found


def _plain_decimals(models: Iterable[type[Model]], key: bytes, value: object) -> object:
    """A record with its Decimals as Python writes them: 1E-7 for 0.0000001."""
    for model in models:
        if isinstance(value, dict) and key.startswith(f"{model._meta.options.name}:".encode()):
            exact = {name.encode() for name, one in model._meta.fields.items() if one.type is Decimal}
            return {name: str(Decimal(raw.decode())).encode() if name in exact else raw for name, raw in value.items()}
    return value


def difference(found: Dump, expected: Dump) -> str:
    """What differs between two keyspaces, in words; empty where nothing does."""
    return "\n".join(
        f"{key.decode(errors='replace')}\n  found    {found.get(key)}\n  expected {expected.get(key)}"
        for key in sorted({*found, *expected})
        if found.get(key) != expected.get(key)
    )


def assert_true(server: Server, models: Iterable[type[Model]], rows: Mapping[type[Model], Rows] | None = None) -> Dump:
    """Fail unless the keyspace is what the records (these, or those that stand there) imply, exactly; returns it."""
    models, (found, ends) = list(models), observed(server)
    versions = {
        key.decode(): value[b"$v"] for key, value in found.items() if isinstance(value, dict) and b"$v" in value
    }
    known = [model for model in models if f"$Slots:{model._meta.options.name}".encode() in found]
    expected = keyspace(rows_of(found, models) if rows is None else rows, ends, versions, known)
    found = {key: _plain_decimals(models, key, value) for key, value in found.items()}
    assert not (wrong := difference(found, expected)), wrong
    for model, records in rows_of(found, models).items():
        for key in records:
            for one in filter(cap_of, model._meta.fields.values()):
                beside = list_key(model, one.name, key)
                assert beside.encode() not in found or ends.get(beside) == ends.get(key), f"{beside} outlives {key}"
    return found


# Streams -------------------------------------------------------------------------------------------------------------


def replayed(entries: Any, model: type[Model]) -> Rows:
    """The rows that the entries of a model's stream come to, from the first to the last."""
    fields: Mapping[str, Field[Any]] = model._meta.fields
    found: Rows = {}
    for _, entry in entries:
        words = {name.decode(): raw for name, raw in entry.items()}
        key, operation = words["key"].decode(), words["op"]
        row = found.pop(words["from"].decode() if "from" in words else key, None)
        if operation == b"delete":
            continue
        assert words["v"] == b"1"
        assert (operation == b"update") <= (row is not None), "an update of a record that the stream never created"
        base = dict.fromkeys(fields) if operation == b"create" or row is None else row
        set_to_null = {word[1:]: None for word in words if word.startswith("-")}
        written = {word[1:]: read_text(fields[word[1:]].type, raw) for word, raw in words.items() if word[0] == "="}
        found[key] = {**base, **set_to_null, **written}
    return found


# Queries -------------------------------------------------------------------------------------------------------------

RADIUS = 6372797.560856
UNITS = {"m": 1.0, "km": 1000.0, "ft": 0.3048, "mi": 1609.34}


def distance(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Metres between two (latitude, longitude), by the haversine formula."""
    phi_a, phi_b = radians(a[0]), radians(b[0])
    u, v = sin((phi_b - phi_a) / 2), sin((radians(b[1]) - radians(a[1])) / 2)
    return 2 * RADIUS * asin(sqrt(min(1.0, u * u + cos(phi_a) * cos(phi_b) * v * v)))


_COMPARISONS = {
    "lt": lambda value, other: value < other,
    "lte": lambda value, other: value <= other,
    "gt": lambda value, other: value > other,
    "gte": lambda value, other: value >= other,
    "between": lambda value, other: other[0] <= value <= other[1],
    "in": lambda value, other: value in list(other),
    "eq": lambda value, other: value == other,
    "startswith": lambda value, other: stored_text(value).decode().startswith(other),
    "endswith": lambda value, other: stored_text(value).decode().endswith(other),
    "contains": lambda value, other: other in stored_text(value).decode(),
}
TEXT_LOOKUPS = ("startswith", "endswith", "contains")


def holds(row: Values, name: str, lookup: str, operand: Any) -> bool:
    """Whether a row satisfies one lookup. Null equals null and is in no order."""
    value = row[name]
    if lookup == "isnull":
        return (value is None) == operand
    if lookup == "eq" and operand is None:
        return value is None
    return value is not None and _COMPARISONS[lookup](value, operand)


def ordered(rows: Mapping[str, Values], orders: Iterable[str] = ()) -> list[str]:
    """Record keys as `order_by(*orders)` has them: nulls last either way, ties by key in the first one's direction."""
    orders = list(orders)
    first = -1 if orders and orders[0].startswith("-") else 1

    def compare(a: str, b: str) -> int:
        for order in orders:
            name, direction = order.lstrip("-"), -1 if order.startswith("-") else 1
            x, y = rows[a][name], rows[b][name]
            if x is None or y is None:
                if x is not y:
                    return 1 if x is None else -1
            elif x != y:
                return direction * (-1 if x < y else 1)
        return first * ((a.encode() > b.encode()) - (a.encode() < b.encode()))

    return sorted(rows, key=cmp_to_key(compare))


def values_of(instance: Any) -> Values:
    """The values of an instance, by field name: relations as keys, lists as they are now."""
    values = {}
    for name, one in instance._meta.fields.items():
        value = getattr(instance, name)
        plain = isinstance(one, Relationship) or isinstance(value, list)
        values[name] = one.plain(value) if plain and value is not None else value
    return values
