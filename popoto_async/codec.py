"""Value ↔ stored text, by declared type: never by what the data looks like.

| type | stored as |
|---|---|
| str, UUID | the text |
| int, bool | `42`, `1` / `0` |
| float | the shortest of `%.15g`, `%.16g`, `%.17g` that reads back equal: `4.5` |
| Decimal | its own text: `1.10` |
| datetime | ISO 8601 in UTC, microseconds always: `2024-01-02T03:04:05.000006Z` |
| date, time | ISO 8601 |
| bytes | raw |
| list, tuple, set, dict | MessagePack; what that lacks (Decimal, datetime, set, tuple, big int, …) as extension types |
| Enum | its value |

A **token** is the text that is equal for equal values (1.10 and 1.1 share one) and stands in index keys. A **score** is
the double that a sorted set orders by; `exact` says whether the double's shortest text is the value itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Any, cast
from uuid import UUID

import msgspec

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = 86_400_000_000
_INT64 = 2**63


_json = msgspec.json.Encoder().encode
_float = float.__float__  # of what derives from float too: its value

_NAT = "it names no instant"
"""Of pandas' NaT, which is a datetime all the same, and differs from itself."""


def float_bytes(value: float) -> bytes:
    """The shortest text of 15 to 17 significant digits that reads back as the same double."""
    value = _float(value)
    if 1e-4 <= abs(value) < 1e15:  # where JSON has the same digits, and no exponent; msgspec is quicker than `repr`
        return _json(value).removesuffix(b".0")
    text = f"{value:.15g}"
    if float(text) != value:
        text = f"{value:.16g}"
    return (text if float(text) == value else f"{value:.17g}").encode()


def float_text(value: float) -> str:
    """The same as a str."""
    return float_bytes(value).decode()


def as_utc(value: datetime) -> datetime:
    """The same instant, aware and in UTC; a naive one is taken as UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# The texts are those of the types themselves: what derives from one may show itself otherwise.


def _datetime_text(value: datetime) -> bytes:
    if value != value:
        raise ValueError(_NAT)
    return datetime.isoformat(as_utc(value).replace(tzinfo=None), timespec="microseconds").encode() + b"Z"


def _datetime_iso(value: datetime) -> bytes:
    if value != value:
        raise ValueError(_NAT)
    return datetime.isoformat(value).encode()


def _date_text(value: date) -> str:
    return date.isoformat(value)


def _time_text(value: time) -> str:
    return time.isoformat(value, timespec="microseconds")


def _int_text(value: int) -> str:
    return int.__repr__(value)  # `__str__` of an int is that of its class


def _decimal_text(value: Decimal) -> str:
    return Decimal.__str__(value)


def _uuid_text(value: UUID) -> str:
    return UUID.__str__(value)


def _datetime_from(raw: bytes) -> datetime:
    return as_utc(datetime.fromisoformat(raw.decode()))


def _micros(value: datetime) -> int:
    return (as_utc(value) - EPOCH) // _MICROSECOND


def _time_micros(value: time) -> int:
    whole = ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    offset = value.utcoffset()
    return whole if offset is None else whole - offset // _MICROSECOND


def _time_token(value: time) -> str:
    """Equal for equal times: 12:00 UTC and 13:00+01:00 are one, a naive 12:00 is another."""
    return _time_text(value) if value.utcoffset() is None else f"{_time_micros(value)}Z"


def _decimal_token(value: Decimal) -> str:
    """Equal for equal numbers: plain digits without trailing zeros, or digits and an exponent for far-off ones."""
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return _decimal_text(value)
    text = "".join(map(str, digits)).lstrip("0")
    stripped = text.rstrip("0")
    if not stripped:
        return "0"
    exponent += len(text) - len(stripped)
    plain = Decimal((sign, tuple(map(int, stripped)), exponent))
    return format(plain, "f") if exponent > -400 and plain.adjusted() < 400 else f"{'-' * sign}{stripped}E{exponent}"


def _safe_float(value: int | Decimal) -> float:
    try:
        return float(value) + 0.0  # of the two zeros, the one without a sign
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


# Containers ----------------------------------------------------------------------------------------------------------

DEPTH = 100
"""Containers within one another. Reading takes several frames of Python's stack for each; 1,000 is its usual limit."""

_TAGS: dict[int, Callable[[bytes], Any]] = {
    1: lambda raw: Decimal(raw.decode()),
    2: lambda raw: datetime.fromisoformat(raw.decode()),
    3: lambda raw: date.fromisoformat(raw.decode()),
    4: lambda raw: time.fromisoformat(raw.decode()),
    5: lambda raw: UUID(bytes=raw),
    6: lambda raw: int(raw),
    7: lambda raw: tuple(unpack(raw)),
    8: lambda raw: set(unpack(raw)),
    9: lambda raw: frozenset(unpack(raw)),
    10: lambda raw: dict(unpack(raw)),
}
_WRITERS: dict[type, tuple[int, Callable[[Any, int], bytes]]] = {
    Decimal: (1, lambda v, _: _decimal_text(v).encode()),
    datetime: (2, lambda v, _: _datetime_iso(v)),
    date: (3, lambda v, _: _date_text(v).encode()),
    time: (4, lambda v, _: time.isoformat(v).encode()),
    UUID: (5, lambda v, _: v.bytes),
    tuple: (7, lambda v, depth: pack(list(v), depth)),
    set: (8, lambda v, depth: _pack_sorted(v, depth)),
    frozenset: (9, lambda v, depth: _pack_sorted(v, depth)),
}
_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    str: str.__str__,
    float: _float,
    bytes: lambda v: bytes.__getitem__(v, slice(None)),
    list: lambda v: list.__getitem__(v, slice(None)),
    dict: lambda v: dict(dict.items(v)),
}
"""What is stored of values that derive from these: what they are, however they show themselves."""
_PLAIN = (str, float, bool, bytes, type(None))
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ext_hook=lambda code, data: _TAGS[code](bytes(data))).decode


def _portable(value: Any, depth: int) -> Any:
    """The value with everything MessagePack lacks replaced by an extension type; ValueError names what can't be.

    `depth` is how many containers it stands in.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else msgspec.msgpack.Ext(6, str(value).encode())
    if kind is list:
        within = _deeper(depth)
        return [_portable(item, within) for item in value]
    if kind is dict:
        within = _deeper(depth)
        pairs = [(_portable(key, within), _portable(item, within)) for key, item in value.items()]
        if any(type(key) is msgspec.msgpack.Ext for key, _ in pairs):
            return msgspec.msgpack.Ext(10, _encode(pairs))
        return dict(pairs)
    if (writer := _WRITERS.get(kind)) is not None:
        return msgspec.msgpack.Ext(writer[0], writer[1](value, depth))
    if not isinstance(value, Enum):  # a subclass is stored as what it derives from
        for base, plain in _BASES.items():
            if isinstance(value, base):
                return _portable(plain(value), depth)
        for base, (code, write) in _WRITERS.items():
            if isinstance(value, base):
                return msgspec.msgpack.Ext(code, write(value, depth))
    raise ValueError(f"a {kind.__name__} can't be stored inside a container")


def pack(value: Any, depth: int = 0) -> bytes:
    """A container as MessagePack. ValueError where it can't be, RecursionError where Python's stack ends before."""
    return _encode(_portable(value, depth))


def _pack_sorted(value: Any, depth: int) -> bytes:
    # In the order of the packed members, so that equal sets are stored as equal bytes.
    within = _deeper(depth)
    return _encode([msgspec.Raw(raw) for raw in sorted(pack(item, within) for item in value)])


def _deeper(depth: int) -> int:
    if depth == DEPTH:
        raise ValueError(f"containers can't be nested more than {DEPTH} deep")
    return depth + 1


def unpack(raw: bytes) -> Any:
    """What `pack` stored."""
    return _decode(raw)


# Columns -------------------------------------------------------------------------------------------------------------


def together(
    kind: Any, before: bytes = b"[", between: bytes = b",", after: bytes = b"]"
) -> Callable[[Sequence[bytes]], list[Any] | None]:
    """What decodes many texts at once that, with these around and between them, are JSON: a list of some `kind`.

    That is several times as fast as one after the other. None where they are not, and where what they mean to JSON is
    not sure to be what each means alone: -0 is a whole number there, and a text may have been more than one item.
    """
    read: Callable[[bytes], list[Any]] = msgspec.json.Decoder(kind).decode

    def decode(texts: Sequence[bytes]) -> list[Any] | None:
        joined = before + between.join(texts) + after
        if b"-0," in joined or b"-0]" in joined:
            return None
        try:
            found = read(joined)
        except msgspec.DecodeError:
            return None
        return found if len(found) == len(texts) else None

    return decode


# Codecs --------------------------------------------------------------------------------------------------------------


def is_nan(value: Any) -> bool:
    """Whether a valid value equals nothing, not even itself."""
    # A signaling NaN of decimal raises where it is compared.
    return value.is_nan() if isinstance(value, Decimal) else bool(value != value)


class Codec(msgspec.Struct, frozen=True):
    """How one declared type is stored, named in index keys, ordered, and told apart.

    `compare` names the order of stored texts on the server: `number`, `text` (bytewise) or `bytes` (equality alone).
    `together` decodes many texts at once; None where it can't, and they are to be decoded one by one.
    """

    type: type
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    token: Callable[[Any], str] | None = None
    score: Callable[[Any], float] | None = None
    number: Callable[[Any], int | Decimal] | None = None
    compare: str = "bytes"
    together: Callable[[Sequence[bytes]], list[Any] | None] | None = None

    def decode_all(self, texts: Sequence[bytes | None]) -> Iterable[Any]:
        """The values of a column, null for null. Raises, now or on the way, where a text is no value."""
        if not all(texts) and None in texts:  # empty texts are few, and the first question is answered sooner
            return [None if raw is None else self.decode(raw) for raw in texts]
        present = cast("Sequence[bytes]", texts)
        found = self.together and self.together(present)
        return map(self.decode, present) if found is None else found

    def exact(self, value: Any) -> bool:
        """Whether the shortest text of the value's score is the value, so that its score tells it from any other."""
        if self.number is None or self.score is None:
            return True
        number = self.number(value)
        if isinstance(number, int) and -(2**53) <= number <= 2**53:
            return True
        score = self.score(value)
        return score - score == 0 and Decimal(float_text(score)) == number


_CODECS: dict[type, Codec] = {
    str: Codec(str, str.encode, bytes.decode, token=str.__str__, compare="text"),
    bytes: Codec(bytes, _BASES[bytes], bytes, compare="text"),
    int: Codec(int, lambda v: b"%d" % v, int, token=_int_text, score=_safe_float, number=int, compare="number"),
    bool: Codec(
        bool,
        lambda v: b"1" if v else b"0",
        lambda raw: {b"1": True, b"0": False}[raw],
        token=lambda v: "1" if v else "0",
        compare="number",
    ),
    float: Codec(
        float,
        float_bytes,
        float,
        token=lambda v: float_text(v + 0.0),
        score=lambda v: v + 0.0,
        compare="number",
        together=together(list[float]),
    ),
    Decimal: Codec(
        Decimal,
        lambda v: _decimal_text(v).encode(),
        lambda raw: Decimal(raw.decode()),
        token=_decimal_token,
        score=_safe_float,
        number=Decimal,
        compare="number",
    ),
    datetime: Codec(
        datetime,
        _datetime_text,
        _datetime_from,
        token=lambda v: _datetime_text(v).decode(),
        score=lambda v: float(_micros(v)),
        number=_micros,
        compare="text",
    ),
    date: Codec(
        date,
        lambda v: _date_text(v).encode(),
        lambda raw: date.fromisoformat(raw.decode()),
        token=_date_text,
        score=lambda v: float((v.toordinal() - EPOCH.toordinal()) * _DAY),
        compare="text",
    ),
    time: Codec(
        time,
        lambda v: _time_text(v).encode(),
        lambda raw: time.fromisoformat(raw.decode()),
        token=_time_token,
        score=lambda v: float(_time_micros(v)),
        compare="text",
    ),
    UUID: Codec(
        UUID, lambda v: _uuid_text(v).encode(), lambda raw: UUID(raw.decode()), token=_uuid_text, compare="text"
    ),
    **{kind: Codec(kind, pack, unpack) for kind in (list, dict, tuple, set)},
}
"""By declared type. A type that is missing here can't be declared."""


@cache
def codec_for(declared: type) -> Codec | None:
    """The codec of a declared type, of an Enum that of its values, which must share one type; None if there is none."""
    if not issubclass(declared, Enum):
        return _CODECS.get(declared)
    kinds = {type(member.value) for member in declared}
    inner = _CODECS.get(kinds.pop()) if len(kinds) == 1 else None
    if inner is None or inner.token is None:
        return None
    encode, decode, token = inner.encode, inner.decode, inner.token
    members = {token(member.value): member for member in declared}

    def member_of(raw: bytes) -> Any:
        value = decode(raw)  # equal to the member's, but not always to Enum: of naive datetimes it is aware
        found = members.get(token(value))
        return declared(value) if found is None else found

    return Codec(
        declared,
        lambda member: encode(member.value),
        member_of,
        token=lambda member: token(member.value),
        compare=inner.compare,
    )
