"""The demo's two models, and the airports of the `airportsdata` package as values for one of them."""

from __future__ import annotations

from typing import Any

from popoto_async import GeoField, IndexedField, KeyField, Model, PopotoError, SortedField, StringField, UniqueField

try:
    import airportsdata
except ModuleNotFoundError:
    airportsdata = None

NAMED = ("KJFK", "LSZH", "NZSP", "ZUDC")
"""Airports that the demo asks for by name: they are loaded whatever the limit."""

FEWEST = 500
"""The lowest limit: so many awaits run at the same time."""


class Airport(Model):
    """An airport; the key is its ICAO code, as in Airport:KJFK."""

    icao: str = KeyField()
    iata: str | None = IndexedField(null=True)
    name: str = StringField()
    city: str = StringField()
    country: str = IndexedField()
    elevation: float = SortedField()  # feet
    position = GeoField()


class Pilot(Model):
    """A pilot, whose call sign nobody else has."""

    name: str = KeyField()
    call_sign: str = UniqueField()


def airports(limit: int | None) -> list[dict[str, Any]]:
    """The airports as values of `Airport`: all, or `limit` of them spread evenly over the alphabet of codes."""
    if airportsdata is None:
        raise PopotoError(
            "the demo needs the airports of the airportsdata package, which is not installed",
            hint="Run: pip install 'popoto_async[demo]'",
        )
    found = airportsdata.load()
    codes = list(found)
    if limit is not None and limit < len(codes):
        spread = (codes[at * len(codes) // limit] for at in range(limit))
        codes = list(dict.fromkeys([*NAMED, *spread]))[:limit]
    return [_values(found[code]) for code in codes]


def _values(airport: dict[str, Any]) -> dict[str, Any]:
    return {
        "icao": airport["icao"],
        "iata": airport["iata"] or None,
        "name": airport["name"],
        "city": airport["city"],
        "country": airport["country"],
        "elevation": airport["elevation"],
        "position": (airport["lat"], airport["lon"]),
    }
