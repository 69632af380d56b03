"""Positions on the Earth: GeoField.

The index is the server's own geo index (a sorted set of 52-bit geohashes, which GEOSEARCH reads). It refuses latitudes
beyond ±85.05112878° and keeps positions to about 0.6 m, so: poles stand in a small set that is always examined, the
exact position stands in the record, and every distance that is compared or returned is computed from that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

from popoto_async.codec import Codec, float_bytes, together
from popoto_async.errors import InvalidLookup, shorten
from popoto_async.fields.base import Field
from popoto_async.plan import MEMBER, AllOf, ByDistance, Entry, Index, Near, Test
from popoto_async.types import Row, TypeVar

EARTH_RADIUS = 6372797.560856
"""Metres; the radius the server's geo commands use (`geohash_helper.c`)."""

LATITUDE_LIMIT = 85.05112878
"""Degrees; where Web Mercator (EPSG:3857) ends and the server's geo index with it."""

_BAND = 2 * LATITUDE_LIMIT

UNITS = {"m": 1.0, "km": 1000.0, "ft": 0.3048, "mi": 1609.34}
"""Metres in each unit, as the server's geo commands count."""

_CELLS = 1 << 26
"""In which each of the two is counted; the last one has its far border, too."""

_HALF = 13
"""Bits of half a cell's number: as many as are spread by one look into a table."""

_LOW = (1 << _HALF) - 1

_new = tuple.__new__  # which a NamedTuple's own function only calls: pages are made of positions


class Coordinates(NamedTuple):
    """A position in degrees."""

    latitude: float
    longitude: float


Position = Coordinates
T = TypeVar("T", bound=Coordinates | None, default=Coordinates)


def haversine(a: Coordinates, b: Coordinates) -> float:
    """The great-circle distance in metres (haversine formula)."""
    phi_a, phi_b = math.radians(a.latitude), math.radians(b.latitude)
    u = math.sin((phi_b - phi_a) / 2)
    v = math.sin((math.radians(b.longitude) - math.radians(a.longitude)) / 2)
    return 2.0 * EARTH_RADIUS * math.asin(math.sqrt(min(1.0, u * u + math.cos(phi_a) * math.cos(phi_b) * v * v)))


def _spread_all(bits: int) -> list[int]:
    """All numbers of so many bits, with these moved to the even places."""
    found = [0]
    for bit in range(bits):
        found += [spread | 1 << 2 * bit for spread in found]
    return found


_SPREAD = _spread_all(_HALF)


def geohash(position: Coordinates) -> int:
    """The 52-bit interleaved geohash that GEOADD would store as the score."""
    latitude, longitude = position
    row = int((latitude + LATITUDE_LIMIT) / _BAND * _CELLS)
    column = int((longitude + 180.0) / 360.0 * _CELLS)
    if row == _CELLS:
        row -= 1
    if column == _CELLS:
        column -= 1
    high = _SPREAD[row >> _HALF] | _SPREAD[column >> _HALF] << 1
    low = _SPREAD[row & _LOW] | _SPREAD[column & _LOW] << 1
    return high << 2 * _HALF | low


def _encode(value: Coordinates) -> bytes:
    return b"%b,%b" % (float_bytes(value[0]), float_bytes(value[1]))


def _decode(raw: bytes) -> Coordinates:
    latitude, longitude = raw.split(b",")
    return _new(Coordinates, (float(latitude), float(longitude)))


_CODEC = Codec(Coordinates, _encode, _decode, together=together(list[Coordinates], b"[[", b"],[", b"]]"))


class GeoField(Field[T]):
    """A position: `GeoField.Coordinates(latitude, longitude)` or a tuple of two numbers; read back exactly.

    `f=(lat, lon)` or `f_member=<instance>` with `f_radius=` or `f_box=(width, height)`, in `f_radius_unit` m (default),
    km, ft or mi. `f_with_distances=True` orders by distance, nearest first, and sets `_geo_distance` and
    `_geo_distance_unit` on the results. Neither radius nor box raises.
    """

    Coordinates: TypeAlias = Position
    lookups = ("eq", "isnull", "radius", "radius_unit", "member", "box", "with_distances")
    parameters: ClassVar[tuple[str, ...]] = ("radius", "radius_unit", "member", "box", "with_distances")
    default_type = Position
    allowed = (Position,)

    if TYPE_CHECKING:

        def __set__(self, instance: object, value: T | tuple[float, float]) -> None: ...

    def _codec(self) -> Codec:
        return _CODEC

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Name the indexes."""
        super().connect(fields)
        self._geo, self._pole = f"Geo:{self.name}", f"Pole:{self.name}"

    def normalise(self, value: Any) -> Any:
        """A pair of numbers becomes Coordinates."""
        kind = type(value)
        if (kind is tuple or kind is Coordinates) and len(value) == 2:
            latitude, longitude = value
            if type(latitude) is float and type(longitude) is float:
                return value if kind is Coordinates else _new(Coordinates, value)
        if isinstance(value, (tuple, list)) and len(value) == 2 and _is_number(value[0]) and _is_number(value[1]):
            try:
                return Coordinates(float(value[0]), float(value[1]))
            except OverflowError:
                return value
        return value

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value: its form or its range."""
        if value is None:
            return super().problems(value)
        if type(value) is not Coordinates:
            return [f"must be Coordinates or a (latitude, longitude) pair of numbers, not {shorten(value)}"]
        found = []
        if not -90.0 <= value.latitude <= 90.0:
            found.append(f"latitude {value.latitude} is not between -90 and 90")
        if not -180.0 <= value.longitude <= 180.0:
            found.append(f"longitude {value.longitude} is not between -180 and 180")
        return found or super().problems(value)

    def checked(self, value: Any) -> bytes | None:
        """The stored text of a position."""
        if type(value) is Coordinates and self.unrestricted:
            latitude, longitude = value
            if -90.0 <= latitude <= 90.0 and -180.0 <= longitude <= 180.0:
                return _encode(value)
        return super().checked(value)

    def indexes(self) -> tuple[Index, ...]:
        """The geohashes, and the poles."""
        return (
            Index(self._geo, MEMBER, (self.name,), tailed=False),
            Index(self._pole, MEMBER, (self.name,), tailed=False),
        )

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """A place in one of the two."""
        if value is None:
            return ()
        if -LATITUDE_LIMIT <= value[0] <= LATITUDE_LIMIT:
            return (Entry(self._geo, "", str(geohash(value))),)
        return (Entry(self._pole),)

    def tests(self, lookups: Mapping[str, Any], tail: str) -> Test:
        """An area, where the lookups describe one, and whatever else they ask."""
        rest = {name: value for name, value in lookups.items() if name == "isnull"}
        if len(rest) == len(lookups):
            return super().tests(rest, tail)
        area = self._area(lookups)
        return AllOf((area, super().tests(rest, tail))) if rest else area

    def distances(self, lookups: Mapping[str, Any]) -> tuple[ByDistance, str] | None:
        """How to order by distance and the unit to tell it in, where the lookups ask for distances."""
        wanted = lookups.get("with_distances", False)
        if not isinstance(wanted, bool):
            raise self.invalid("with_distances", wanted, "takes True or False")
        if not wanted:
            return None
        centre = self.centre(lookups)
        return ByDistance(self.name, centre.latitude, centre.longitude), lookups.get("radius_unit", "m")

    def centre(self, lookups: Mapping[str, Any]) -> Position:
        """The point that the lookups measure from."""
        if ("eq" in lookups) == ("member" in lookups):
            raise self._incomplete(lookups, f"takes a centre: {self.name}= or {self.name}_member=, one of them")
        value = self._of_member(lookups["member"]) if "member" in lookups else lookups["eq"]
        centre = self.normalise(value)
        if type(centre) is not Coordinates or self.problems(centre):
            raise self.invalid("eq", value, "takes a (latitude, longitude) within ±90 and ±180")
        return centre

    def _of_member(self, instance: Any) -> Any:
        fields = getattr(getattr(type(instance), "_meta", None), "fields", {})
        names = [name for name, field in fields.items() if field.type is Coordinates]
        name = self.name if self.name in names else names[0] if len(names) == 1 else None
        value = None if name is None else getattr(instance, name)
        if value is None:
            raise self.invalid("member", instance, "takes a saved instance that has a position")
        return value

    def _area(self, lookups: Mapping[str, Any]) -> Test:
        centre = self.centre(lookups)
        unit = lookups.get("radius_unit", "m")
        if not isinstance(unit, str) or unit not in UNITS:
            raise self.invalid("radius_unit", unit, f"takes one of {', '.join(UNITS)}")
        if ("radius" in lookups) == ("box" in lookups):
            raise self._incomplete(lookups, f"needs {self.name}_radius= or {self.name}_box=, one of them")
        if "radius" in lookups:
            radius = self._length("radius", lookups["radius"], unit)
            return Near(self._geo, self._pole, self.name, centre.latitude, centre.longitude, radius=radius)
        sides = lookups["box"]
        if not isinstance(sides, (tuple, list)) or len(sides) != 2:
            raise self.invalid("box", sides, "takes a pair (width, height)")
        box = (self._length("box", sides[0], unit), self._length("box", sides[1], unit))
        return Near(self._geo, self._pole, self.name, centre.latitude, centre.longitude, box=box)

    def _incomplete(self, lookups: Mapping[str, Any], problem: str) -> InvalidLookup:
        lookup, value = next(iter(lookups.items()))
        return self.invalid(lookup, value, problem)

    def _length(self, lookup: str, value: Any, unit: str) -> float:
        if not _is_number(value) or not 0 <= value < math.inf:
            raise self.invalid(lookup, value, "takes a length of 0 or more")
        return float(value) * UNITS[unit]


def _is_number(value: Any) -> bool:
    return type(value) is float or (isinstance(value, (int, float)) and not isinstance(value, bool))
