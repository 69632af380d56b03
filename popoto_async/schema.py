"""One model class described: its fields, its indexes, the slots of these on a server. Frozen once built."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any

import msgspec

from popoto_async.errors import DefinitionError
from popoto_async.expressions import Order
from popoto_async.fields.base import Field
from popoto_async.fields.composite import CompositeIndex
from popoto_async.fields.relationship import Relationship
from popoto_async.keys import ModelKeys, model_keys
from popoto_async.plan import BESIDE, MEMBER, Entry, Index, Layout
from popoto_async.types import Row

LISTED = "\t"
"""Stands in a line of the slot table before each key that lists the index's values; no key contains it."""


class Events(msgspec.Struct, frozen=True):
    """What the stream of a model's writes holds: about `limit` entries, each with these `values`."""

    limit: int
    values: str


class Options(msgspec.Struct, frozen=True):
    """What `class Meta` said."""

    name: str
    order_by: tuple[Order, ...] = ()
    ttl: float | None = None
    abstract: bool = False
    database: str | None = None
    versioned: bool = False
    immutable_key: bool = False
    events: Events | None = None


class Referrer(msgspec.Struct, frozen=True):
    """A relation of the model `schema` that leads here; `place` is where its class is defined."""

    schema: Schema
    field: Relationship[Any]
    place: tuple[str, str]


class Schema(msgspec.Struct, frozen=True, eq=False):
    """A model class as planning and databases see it.

    `touches` says which indexes a change of a field touches; `stamped` are the fields that a save fills with the clock;
    `columns` what a load reads; `beside` the fields whose value stands in a key beside the record, with the index that
    names it. What is asked of each field stands here ready to be called, by name: `makers` (what an assigned value
    becomes, and the initial one), `encoders`, `entries` (of the fields with indexes), `parts` (of the key); `decoders`
    by column. `spaced` are the names of all fields as they are sent, with room for a text after each. `referrers` alone
    grows afterwards: classes that refer to this one are defined later.
    """

    model: str
    options: Options
    fields: Mapping[str, Field[Any]]
    keys: tuple[Field[Any], ...]
    composites: tuple[CompositeIndex, ...]
    indexes: tuple[Index, ...]
    stamped: tuple[Field[Any], ...]
    touches: Mapping[str, frozenset[str]]
    owners: Mapping[str, Field[Any] | CompositeIndex]
    columns: tuple[str, ...]
    key_names: frozenset[str]
    decoders: tuple[Callable[[bytes], Any], ...]
    makers: tuple[tuple[str, Callable[[Any], Any], Callable[[], Any] | None], ...]
    encoders: tuple[tuple[str, Callable[[Any], Any]], ...]
    entries: tuple[tuple[str, Callable[[Any, Row], tuple[Entry, ...]]], ...]
    parts: tuple[tuple[str, Callable[[Any], str]], ...]
    spaced: list[bytes]
    beside: Mapping[str, str]
    referrers: list[Referrer]

    def bind(self, namespace: str | None, stored: str = "") -> Binding:
        """The keys and slots under a namespace, where the server's slot table is `stored`."""
        return Binding(self, namespace, stored)


def build_schema(
    model: str, options: Options, fields: Mapping[str, Field[Any]], composites: list[CompositeIndex]
) -> Schema:
    """Describe a class whose fields are bound: connects the fields and collects their indexes."""
    keys = tuple(field for field in fields.values() if field.is_key)
    for field in fields.values():
        field.sole_key = len(keys) == 1 and field is keys[0]
        field.key_number = next((number for number, key in enumerate(keys, 1) if key is field), 0)
    indexes: list[Index] = []
    owners: dict[str, Field[Any] | CompositeIndex] = {}
    for field in fields.values():
        field.connect(fields)
        for index in field.indexes():
            indexes.append(index)
            owners[index.name] = field
    for composite in composites:
        if composite.index.name in owners:
            raise DefinitionError(f"{model}: two indexes over {composite.names}", model=model)
        indexes.append(composite.index)
        owners[composite.index.name] = composite
    touches = {name: frozenset(index.name for index in indexes if name in index.inputs) for name in fields}
    return Schema(
        model,
        options,
        fields,
        keys,
        tuple(composites),
        tuple(indexes),
        tuple(field for field in fields.values() if field.stamps),
        touches,
        owners,
        (*fields, "$v") if options.versioned else tuple(fields),
        frozenset(field.name for field in keys),
        tuple(field.codec.decode for field in fields.values()),
        tuple(
            (name, field.normalise, field.initial if field.has_default or field.generates else None)
            for name, field in fields.items()
        ),
        tuple((name, field.checked) for name, field in fields.items()),
        tuple((name, field.entries) for name, field in fields.items() if any(field is one for one in owners.values())),
        tuple((field.name, field.part) for field in keys),
        [text for name in fields for text in (name.encode(), b"")],
        {name: field.beside for name, field in fields.items() if field.beside},
        [],
    )


BUILT = "\n\n"
"""Stands in a slot table between the slots and what is said of the indexes that hold every record."""

BUILDING = "!"
"""Stands in what is said of an index that is being rebuilt, before a mark of that run."""


def definition(name: str, index: Index, fields: Mapping[str, Field[Any]]) -> str:
    """What is said of an index (or its listing) that holds every record: its name, and the types its entries come from.

    An index that was built under another definition is not the one that a class declares.
    """
    kinds = (fields[name].codec.type for name in index.inputs)
    forms = ((type(next(iter(kind)).value) if issubclass(kind, Enum) else kind).__name__ for kind in kinds)
    return f"{name}={','.join(f'{one}:{form}' for one, form in zip(index.inputs, forms, strict=True))}"


class Binding:
    """A schema under one namespace and one slot table: what turns entries into the numbers and keys of the wire."""

    __slots__ = (
        "_others",
        "definitions",
        "keys",
        "layout",
        "lines",
        "namespace",
        "prefixes",
        "schema",
        "slot_names",
        "slots",
        "stored",
        "tailed",
        "unbuilt",
    )

    def __init__(self, schema: Schema, namespace: str | None, stored: str) -> None:
        self.schema = schema
        self.namespace = namespace
        self._others: dict[Schema, Binding] = {}
        self.keys: ModelKeys = model_keys(schema.options.name, namespace)
        self.prefixes = {
            index.name: self.keys.index_prefix(index.name, tailed=index.tailed) for index in schema.indexes
        }
        self.stored = stored
        slots, _, told = stored.partition(BUILT)
        lines = slots.split("\n") if slots else []
        known = {key for line in lines for key in line.split(LISTED)}
        places = {line.partition(LISTED)[0]: slot for slot, line in enumerate(lines)}
        self.slots: dict[str, int] = {}
        for index in schema.indexes:
            place = index.kind + self.prefixes[index.name]
            listings = {name: self.keys.index_prefix(name, tailed=False) for name in index.listings}
            self.prefixes.update(listings)
            line = LISTED.join((place, *listings.values()))
            slot = self.slots[index.name] = places.setdefault(place, len(lines))
            if slot == len(lines):
                lines.append(line)
            elif len(lines[slot]) < len(line):
                # A line grows, and never shrinks: classes that declare less than others keep all listings true.
                lines[slot] = line
        self.lines = lines
        kept, added = self._say(told, known)
        self.slot_names = {slot: name for name, slot in self.slots.items()}
        wire = {
            "class": self.keys.klass,
            "man": self.keys.manifests,
            "alias": self.keys.aliases,
            "exp": self.keys.deadlines,
            "slots": self.keys.slots,
            "text": "\n".join(lines) + _built(sorted({*kept, *added}), lines),
            **_apart(lines),
            **_given(versioned=schema.options.versioned),
            "fields": _together(schema.columns),
        }
        beside = [slot for slot, line in enumerate(lines) if line[0] in BESIDE]
        if beside:
            wire["beside"] = beside
        if schema.beside:
            wire["lists"] = {name: self.slots[index] for name, index in schema.beside.items()}
        events = schema.options.events
        if events is not None:
            wire["events"] = {"key": self.keys.stream, "limit": events.limit, "values": events.values}
        if wire["text"] != stored:
            wire["was"] = stored
        if added:
            wire["late"] = "\n".join(lines) + _built(kept, lines)
        brief = wire if schema.beside else {name: wire[name] for name in ("class", "exp", "fields")}
        packed = msgspec.msgpack.encode(wire), msgspec.msgpack.encode(brief)
        self.layout = Layout(schema.model, self.keys.klass, *packed, (self.keys.klass,))

    def _say(self, told: str, known: Collection[str]) -> tuple[list[str], list[str]]:
        """Of what is `told` on the server of indexes, that which stays; and what is said of indexes new to it."""
        self.definitions = {
            name: definition(name, index, self.schema.fields)
            for index in self.schema.indexes
            if index.kind not in BESIDE
            for name in (index.name, *index.listings)
        }
        built = set(told.split("\n"))
        self.unbuilt = frozenset(name for name, said in self.definitions.items() if said not in built)
        """The declared indexes that are not known to hold every record."""
        fresh = [name for name in self.unbuilt if not {self.prefixes[name], self._place(name)} & {*known}]
        # A program that writes takes back what is said of indexes that it does not maintain.
        return sorted(filter(self._maintains, built)), sorted(self.definitions[name] for name in fresh)

    def _maintains(self, line: str) -> bool:
        """Whether what is said of an index, or of its being rebuilt, is what this class declares."""
        name, _, said = line.partition("=")
        if said.startswith(BUILDING):
            line = f"{name}={said.partition(';')[2]}"
        return self.definitions.get(name, self._listed_too(name)) == line

    def _place(self, name: str) -> str:
        """The beginning of the line of an index."""
        return next((index.kind for index in self.schema.indexes if index.name == name), "") + self.prefixes[name]

    def _listed_too(self, name: str) -> str | None:
        """What is said of a listing that other classes declare: scripts keep it up with the index that this one has."""
        key = self.keys.index_prefix(name, tailed=False)
        for index in self.schema.indexes:
            if key in self.lines[self.slots[index.name]].split(LISTED)[1:]:
                return definition(name, index, self.schema.fields)
        return None

    def other(self, schema: Schema) -> Binding:
        """The keys of a model that relations lead to or come from; its slots may be others on the server.

        Scripts that follow relations touch keys of several models in one call. Here alone it is taken for granted that
        these stand on one server: on a cluster, models that refer to one another have to share a hash tag.
        """
        binding = self._others.get(schema)
        if binding is None:
            binding = self._others[schema] = schema.bind(self.namespace)
        return binding

    def record_key(self, values: Mapping[str, Any]) -> str:
        """The key of the record with these values."""
        return self.keys.record([part(values[name]) for name, part in self.schema.parts])


def _apart(lines: list[str]) -> dict[str, Any]:
    """A slot table taken apart, as the scripts use it: by slot a key or its beginning, and what is not as most are.

    `places` are the keys; `kinds` those of slots that hold no members; `listed` the keys of the lists of an index.
    """
    split = [line.split(LISTED) for line in lines]
    return {
        "places": [key[1:] for key, *_ in split],
        **_given(kinds={slot: key[0] for slot, (key, *_) in enumerate(split) if key[0] != MEMBER}),
        **_given(listed={slot: lists for slot, (_, *lists) in enumerate(split) if lists}),
    }


def _together(texts: tuple[str, ...]) -> msgspec.Raw:
    """Texts as one text, which scripts take apart where they need them: each packed, one after the other."""
    packed = b"".join(map(msgspec.msgpack.encode, texts))
    return msgspec.Raw(b"\xdb" + len(packed).to_bytes(4) + packed)


def _given(**one: Any) -> dict[str, Any]:
    """What a map has to say: nothing of what is empty."""
    return {name: value for name, value in one.items() if value}


def _built(said: list[str], lines: list[str]) -> str:
    return BUILT + "\n".join(said) if lines else ""
