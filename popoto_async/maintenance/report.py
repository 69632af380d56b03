"""What maintenance finds and does, as frozen values."""

from __future__ import annotations

import msgspec

KEPT = 1000
"""Pieces of damage that a report keeps; all are counted."""

KINDS = {
    "missing": "an entry that a record implies is not there",
    "score": "an entry stands at another score",
    "claim": "a claim names another record, which has no right to it",
    "duplicate": "two living records have one unique value",
    "extra": "a record stands where its values don't put it",
    "orphan": "an entry or list of no record, a listed value of none, or an index that there is not",
    "manifest": "the manifest of a record is missing, garbled, or not what its values imply",
    "leftover": "a manifest of no record",
    "class": "a record is not listed in its class",
    "ghost": "the class lists what is no record",
    "deadline": "the deadline of a record is not listed, or what is listed or a list beside it has is not its own",
    "late": "a deadline of no record",
    "name": "a value is stored under an old name",
    "rename": "records still refer to an earlier key of this record, whose rename was cut off",
    "unreadable": "a stored value is none of its field's type",
    "misplaced": "a record stands under another key than its values say",
    "foreign": "a key holds something that is not ours",
}
"""Kind of damage → what it is."""

BEYOND_REPAIR = frozenset({"duplicate", "unreadable", "misplaced", "foreign"})
"""Kinds that are told and left alone: what is right can't be told from the data."""


class Damage(msgspec.Struct, frozen=True):
    """One thing that is not as the records imply.

    `key` is the record or the key it is about, `place` the index key (empty where there is none), `tail` the value
    claimed in it, `other` the other record or the field that matters.
    """

    kind: str
    key: str
    place: str = ""
    tail: str = ""
    other: str = ""

    @property
    def repairable(self) -> bool:
        """Whether `repair` takes it away."""
        return self.kind not in BEYOND_REPAIR

    def __str__(self) -> str:
        where = f" in {self.place}" if self.place else ""
        what = f" [{self.tail}]" if self.tail else ""
        other = f" ({self.other})" if self.other else ""
        return f"{self.key}{where}{what}: {KINDS[self.kind]}{other}"


class ModelReport(msgspec.Struct, frozen=True):
    """What one model's records and indexes were found to be.

    `found` counts by kind what was not in order, `mended` how much of that is in order now; `damage` are the first
    1,000. `busy` records changed each time they were looked at, and were left to the next run. `unbuilt` names the
    indexes that don't hold every record: queries over them raise until `rebuild` has run.
    """

    model: str
    records: int
    entries: int
    found: dict[str, int]
    mended: int
    damage: tuple[Damage, ...]
    busy: int = 0
    unbuilt: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How much was not in order."""
        return sum(self.found.values())

    @property
    def left(self) -> int:
        """How much of it still is not."""
        return self.total - self.mended


class Report(msgspec.Struct, frozen=True):
    """What `check`, `repair` or `rebuild` found, model by model."""

    models: tuple[ModelReport, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing was found, and every index holds every record."""
        return not any(model.total or model.unbuilt for model in self.models)

    @property
    def total(self) -> int:
        """How much was not in order."""
        return sum(model.total for model in self.models)

    @property
    def left(self) -> int:
        """How much of it still is not."""
        return sum(model.left for model in self.models)


class IndexStats(msgspec.Struct, frozen=True):
    """The size of one index: its keys, its entries, its bytes."""

    name: str
    keys: int
    entries: int
    bytes: int


class ModelStats(msgspec.Struct, frozen=True):
    """The size of one model: records, deadlines that wait, and bytes; those of records are estimated from a sample."""

    model: str
    records: int
    deadlines: int
    record_bytes: int
    sampled: int
    indexes: tuple[IndexStats, ...]
    slots: int
    retired: int

    @property
    def index_bytes(self) -> int:
        """Bytes of everything that is not a record."""
        return sum(index.bytes for index in self.indexes)

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.record_bytes + self.index_bytes


class Tally:
    """Counts what a run finds."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.records = self.entries = self.mended = self.busy = 0
        self._found: dict[str, int] = {}
        self._damage: dict[Damage, None] = {}
        self.unbuilt: tuple[str, ...] = ()
        self.contested: set[str] = set()
        """Index keys in which two records have one unique value."""

    def add(self, damage: Damage, *, mended: bool) -> None:
        """Count a piece of damage; one that is seen again, in a keyspace that moves, counts once."""
        if damage in self._damage:
            return
        self._found[damage.kind] = self._found.get(damage.kind, 0) + 1
        self.mended += mended
        if damage.kind == "duplicate":
            self.contested.add(damage.place)
        if len(self._damage) < KEPT:
            self._damage[damage] = None

    def report(self) -> ModelReport:
        """As a frozen value."""
        return ModelReport(
            model=self.model,
            records=self.records,
            entries=self.entries,
            found=dict(self._found),
            mended=self.mended,
            damage=tuple(self._damage),
            busy=self.busy,
            unbuilt=self.unbuilt,
        )
