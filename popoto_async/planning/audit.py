"""Schema + stored bytes → what a record has to occupy, and the operations that look after it. Pure.

The declared indexes of a model are **clear** where the class can say what a record occupies in them. Of the others (an
index that this class does not declare, one that was not built yet, one whose inputs can't be read) the manifest is the
only witness: what it names stays, unless the indexes are being rebuilt.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from popoto_async.plan import MEMBER, Operation
from popoto_async.planning.write import ENTRY_COST, LOAD_COST, SAVE_COST, Triple, entries, pack_entries
from popoto_async.schema import BUILDING, BUILT, LISTED, Binding, Schema

PAGE = 200
"""Records or index keys of one operation."""

MEMBERS = 500
"""Members of index keys that one operation goes through, about."""

MEMBER_COST = 4
"""Server time for one of them, in microseconds."""

KINDS = {
    **dict.fromkeys(("Index", "Sort", "Tie", "Null", "Geo", "Pole", "Rel"), MEMBER),
    **dict.fromkeys(("Uniq", "UniqKey"), "c"),
}
LISTS = {"Val": "list", "Rev": "mirror"}
BESIDES = {"List": "beside"}
"""What stands between `$` and the model's name in an index key → how its members are read (`members.lua`)."""

Bytes = bytes | None
Found = tuple[list[Bytes], Bytes, int]
"""A record as it was looked at: its row, its manifest (of what is foreign, the type), its state."""

NONE, SOUND, FOREIGN = -1, 1, 2
"""What stands under a key (`audit.lua`); 0 is a record where something is not as its manifest says."""

_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Place(msgspec.Struct, frozen=True):
    """One key of a model whose members are records, or beside one: how it is read, slot (-1: none), tail, index."""

    key: bytes
    kind: str
    slot: int = -1
    tail: str = ""
    index: str = ""


class Implied(msgspec.Struct, frozen=True):
    """What a record's stored bytes imply: its packed manifest, the fields that can't be read, the key they give."""

    triples: list[Triple]
    manifest: bytes
    unreadable: tuple[str, ...]
    key: str | None


def stored_names(schema: Schema, renamed: Mapping[str, str]) -> tuple[str, ...]:
    """The hash fields that are looked at: the declared ones, and names that values are stored under until now."""
    return (*schema.fields, *renamed)


def values_of(schema: Schema, row: Sequence[Bytes], renamed: Mapping[str, str]) -> tuple[dict[str, Any], set[str]]:
    """The values of a row of `stored_names`, and the fields that can't be read."""
    if renamed:
        stored = dict(zip(stored_names(schema, renamed), row, strict=True))
        for old, new in renamed.items():
            if stored[new] is None:
                stored[new] = stored[old]
        row = [stored[name] for name in schema.fields]
    try:
        values = [None if raw is None else decode(raw) for decode, raw in zip(schema.decoders, row, strict=True)]
        return dict(zip(schema.fields, values, strict=True)), set()
    except Exception:  # whatever a decoder raises, the bytes are not a value
        return _readable(schema, row)


def _readable(schema: Schema, row: Sequence[Bytes]) -> tuple[dict[str, Any], set[str]]:
    found: dict[str, Any] = {}
    for name, decode, raw in zip(schema.fields, schema.decoders, row, strict=True):
        try:
            found[name] = None if raw is None else decode(raw)
        except Exception:  # as above
            found[name] = None
    unreadable = {name for name, raw in zip(schema.fields, row, strict=True) if raw is not None and found[name] is None}
    return found, unreadable


def _own_entries(binding: Binding, values: dict[str, Any], unreadable: set[str]) -> list[Triple]:
    """The entries of the indexes that the class declares. A value that can't stand in its index is unreadable, too."""
    try:
        found = entries(binding, values)
        if not any(score == "nan" for _, _, score in found):
            return found if not unreadable else _without(binding, found, unreadable)
    except Exception:  # a value that no valid record has
        found = []
    for name, of_field in binding.schema.entries:
        try:
            if any(entry.score == "nan" for entry in of_field(values[name], values)):
                raise ValueError
        except Exception:  # as above: now it is known which
            unreadable.add(name)
            values[name] = None
    try:
        return _without(binding, entries(binding, values), unreadable)
    except Exception:  # nothing of such a record can be told
        return []


def _without(binding: Binding, found: list[Triple], unreadable: set[str]) -> list[Triple]:
    """The entries of indexes that depend on none of these fields."""
    vague = {binding.slots[index.name] for index in binding.schema.indexes if not unreadable.isdisjoint(index.inputs)}
    return [triple for triple in found if triple[0] not in vague]


def manifest_entries(binding: Binding, text: Bytes) -> list[Triple] | None:
    """The entries that a manifest names; None where the bytes are no manifest."""
    try:
        flat = _unpack(text or b"")
        found = [(int(flat[i]), str(flat[i + 1]), str(flat[i + 2])) for i in range(0, len(flat), 3)]
    except (ValueError, IndexError, TypeError, msgspec.MsgspecError):
        return None
    return found if all(slot < len(binding.lines) for slot, _, _ in found) else None


def implied(
    binding: Binding,
    row: Sequence[Bytes],
    manifest: Bytes,
    *,
    anew: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> Implied:
    """What the stored bytes of a record imply; `anew`: without regard to its manifest."""
    schema = binding.schema
    values, unreadable = values_of(schema, row, renamed or {})
    found = _own_entries(binding, values, unreadable)
    packed = pack_entries(found)
    if packed != manifest and not anew:
        clear = {
            binding.slots[index.name]
            for index in schema.indexes
            if index.name not in binding.unbuilt and unreadable.isdisjoint(index.inputs)
        }
        kept = [triple for triple in manifest_entries(binding, manifest) or [] if triple[0] not in clear]
        found = sorted({*(triple for triple in found if triple[0] in clear), *kept})
        packed = pack_entries(found)
    keyed = all(field.name not in unreadable for field in schema.keys)
    return Implied(found, packed, tuple(sorted(unreadable)), binding.record_key(values) if keyed else None)


class Places:
    """The index keys of a model under one slot table."""

    def __init__(self, binding: Binding) -> None:
        self._keys = binding.keys
        parts = [line[1:].split(LISTED) for line in binding.lines]
        self._slots = {key: slot for slot, (key, *_) in enumerate(parts)}
        self._lists = {key: slot for slot, (_, *lists) in enumerate(parts) for key in lists}

    def find(self, key: bytes) -> Place | None:
        """The place that a key of the keyspace is; None where it is none of the model's index keys."""
        prefix, records = self._keys.prefix, self._keys.records
        try:
            raw = key.decode()
        except UnicodeDecodeError:
            raw = key.decode(errors="replace")
            found = self._parse(raw, prefix, records)
            return None if found is None or found[0] in BESIDES.values() else Place(key, found[0], index=found[1])
        found = self._parse(raw, prefix, records)
        if found is None:
            return None
        kind, index, base, tail = found
        if kind in LISTS.values():
            return Place(key, kind, self._lists.get(raw, -1), "", index)
        slot = self._slots.get(raw)
        if slot is not None:
            return Place(key, kind, slot, "", index)
        if raw == base:  # without a tail it is another key than that of the empty tail, and of no index
            return None if kind in BESIDES.values() else Place(key, kind, -1, tail, index)
        return Place(key, kind, self._slots.get(base + ":", -1), tail, index)

    def _parse(self, raw: str, prefix: str, records: str) -> tuple[str, str, str, str] | None:
        """How it is read, the index's name, the key without its tail, the tail."""
        if not raw.startswith(prefix + "$"):
            return None
        kind, model, name, tail = [*raw[len(prefix) + 1 :].split(":", 3), "", "", ""][:4]
        read = KINDS.get(kind) or LISTS.get(kind) or BESIDES.get(kind)
        if read is None or model != records[len(prefix) : -1]:
            return None
        return read, f"{kind}:{name}", f"{prefix}${kind}:{model}:{name}", tail


def fixed_places(binding: Binding) -> tuple[Place, ...]:
    """The keys that name every record, or every one of a sort."""
    keys = binding.keys
    named = (("class", keys.klass), ("manifests", keys.manifests), ("deadlines", keys.deadlines))
    return tuple(Place(key.encode(), kind) for kind, key in named)


# Operations ----------------------------------------------------------------------------------------------------------


def plan_audit(binding: Binding, keys: Sequence[bytes], names: Sequence[str]) -> Operation:
    """Look at records."""
    cost = (LOAD_COST + ENTRY_COST) * len(keys)
    return Operation("audit", binding.layout, {"n": len(keys), "fields": names}, tuple(keys), False, cost)


def audited(flat: list[Any], width: int) -> list[Found | None]:
    """What `audit` answered, key by key, where rows have `width` values; None where there is no record."""
    step = width + 2
    found = [(flat[at : at + width], flat[at + width], flat[at + width + 1]) for at in range(0, len(flat), step)]
    return [None if one[2] == NONE else one for one in found]


def plan_members(binding: Binding, places: Sequence[Place], first: int, cursor: bytes) -> Operation:
    """Find members of index keys that stand for no record, from where an earlier call stopped."""
    body = {
        "n": len(places),
        "kinds": [place.kind for place in places],
        "slots": [place.slot for place in places],
        "tails": [place.tail for place in places],
        "records": binding.keys.records,
        "first": first,
        "cursor": cursor.decode(),
        "budget": MEMBERS,
    }
    cost = MEMBER_COST * MEMBERS
    return Operation("members", binding.layout, body, tuple(place.key for place in places), False, cost)


def plan_mend(
    binding: Binding,
    key: bytes,
    row: Sequence[Bytes],
    manifest: Bytes,
    found: Implied,
    *,
    dry: bool,
    renamed: Mapping[str, str],
    suspects: Collection[tuple[int, str]] = (),
) -> Operation:
    """Bring one record in order, or only say what is wrong with it; nothing where it changed since it was looked at."""
    body: dict[str, Any] = {
        "fields": stored_names(binding.schema, renamed),
        "present": [int(raw is not None) for raw in row],
        "records": binding.keys.records,
    }
    if suspects:
        body["suspects"] = list(suspects)
    if renamed:
        body["renames"] = list(renamed.items())
    values = (key, manifest or b"", found.manifest, *(raw or b"" for raw in row))
    size = sum(map(len, values))
    cost = 2 * SAVE_COST + 2 * ENTRY_COST * len(found.triples)
    return Operation("tell" if dry else "mend", binding.layout, body, values, not dry, cost, size)


def plan_prune(binding: Binding, place: Place, members: Sequence[tuple[bytes, bytes]]) -> Operation:
    """Remove members, each (tail, name), that stand for no record; of a key beside a record, its one member."""
    body = {"n": len(members), "kind": place.kind, "slot": place.slot, "records": binding.keys.records}
    if place.kind in ("class", "manifests", "deadlines"):
        body["slot"] = 0
    values = (place.key, *(item for member in members for item in member))
    return Operation("prune", binding.layout, body, values, True, 2 * MEMBER_COST * len(members))


def plan_mark(binding: Binding, run: str, *, over: bool, but: Collection[str] = ()) -> Operation:
    """Say that a run rebuilds the indexes that are not built; or, `over`, that they are, `but` some.

    Whoever writes without maintaining an index takes the mark of the run away, and with it the end of this story.
    """
    told = {line for line in binding.stored.partition(BUILT)[2].split("\n") if line}
    marks = {name: f"{name}={BUILDING}{run};{said.partition('=')[2]}" for name, said in binding.definitions.items()}
    if over:
        done = {name for name, mark in marks.items() if mark in told}
        said = (told - {marks[name] for name in done}) | {binding.definitions[name] for name in done.difference(but)}
    else:
        others = {line for line in told if line.partition("=")[0] not in binding.unbuilt}
        said = {line for line in others if line in binding.definitions.values()}
        said |= {marks[name] for name in binding.unbuilt}
    text = "\n".join(binding.lines) + BUILT + "\n".join(sorted(said)) if binding.lines else binding.stored
    return Operation("mark", binding.layout, {}, (binding.stored.encode(), text.encode()), True, LOAD_COST)


def plan_weigh(binding: Binding, keys: Sequence[bytes]) -> Operation:
    """The number of members and the bytes of keys."""
    return Operation("weigh", binding.layout, {"n": len(keys)}, tuple(keys), False, LOAD_COST * len(keys))


def plan_behind(binding: Binding, keys: Sequence[bytes]) -> Operation:
    """How many records still refer to earlier keys of records, and what their keys are now."""
    body = {"n": len(keys), "alias": binding.keys.aliases}
    return Operation("behind", binding.layout, body, tuple(keys), False, LOAD_COST * len(keys))
