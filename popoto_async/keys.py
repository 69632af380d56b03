r"""Every key and every tail is built here, and nowhere else.

The rule that keeps keys apart: `escape` percent-escapes `%`, `:`, `{`, `}` and control characters, so a part never
contains a separator, a hash tag, or the marks `%null` (null) and `\x01` (the value an increment is about to compute).
Index keys begin with `$`, which no model name can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

NULL = "%null"
"""Stands for null in a key or tail: no escaped value can be this text."""

COMPUTED = "\x01"
"""Stands in an entry for the value the server computes: no escaped value contains it."""

_SPECIAL = re.compile(r"[%:{}\x00-\x1f\x7f]")
_ESCAPED = re.compile(r"%([0-9A-F]{2})")
_GLOB = re.compile(r"[*?\[\]^\\]")
_TABLE = {code: f"%{code:02X}" for code in [*range(0x20), 0x7F, *map(ord, "%:{}")]}


def escape(text: str) -> str:
    """The text as one part of a key: equal for equal texts only, unchanged for ordinary ones."""
    return text.translate(_TABLE) if _SPECIAL.search(text) else text


def unescape(text: str) -> str:
    """What `escape` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "%" in text else text


def part(text: str | None) -> str:
    """An escaped part, or the mark of null."""
    return NULL if text is None else escape(text)


def mirrored(text: str) -> str:
    """A text reversed, then escaped, so that texts with one ending begin alike."""
    return escape(text[::-1])


def tail(parts: Iterable[str]) -> str:
    """Already escaped parts joined to the variable end of an index key."""
    return ":".join(parts)


class ModelKeys(NamedTuple):
    """The keys of one model under one namespace. All of them share the model's hash tag on a cluster."""

    prefix: str
    records: str
    klass: str
    manifests: str
    deadlines: str
    slots: str
    aliases: str

    def record(self, parts: Iterable[str]) -> str:
        """The key of a record from its escaped parts."""
        return self.records + ":".join(parts)

    @property
    def stream(self) -> str:
        """Where the entries of the model's writes stand."""
        return f"{self.prefix}$Stream:{self.records[len(self.prefix) : -1]}"

    @property
    def dead_letters(self) -> str:
        """Where entries stand that no consumer could handle."""
        return f"{self.stream}:dead"

    def index_prefix(self, name: str, *, tailed: bool) -> str:
        """The prefix of an index named `Kind:field…`; with `tailed`, ready for a tail to be appended."""
        kind, _, rest = name.partition(":")
        base = f"{self.prefix}${kind}:{self.records[len(self.prefix) : -1]}:{rest}"
        return base + ":" if tailed else base


def model_keys(name: str, namespace: str | None = None) -> ModelKeys:
    """The keys of the model called `name`, behind `namespace:` where there is one."""
    prefix = f"{escape(namespace)}:" if namespace else ""
    name = escape(name)
    return ModelKeys(
        prefix=prefix,
        records=f"{prefix}{name}:",
        klass=f"{prefix}$Class:{name}",
        manifests=f"{prefix}$Man:{name}",
        deadlines=f"{prefix}$Exp:{name}",
        slots=f"{prefix}$Slots:{name}",
        aliases=f"{prefix}$Alias:{name}",
    )


def record_parts(key: str, name: str, count: int) -> list[str] | None:
    """The escaped parts of the key of a record of the model called `name`, namespace or not; None of others."""
    head, *parts = key.rsplit(":", count)
    space, _, model = head.rpartition(":")
    return parts if model == escape(name) and ":" not in space and len(parts) == count else None


def channel(namespace: str | None, name: str) -> str:
    """A channel under a namespace. Channels are no keys: what other programs call them, they are called here."""
    return f"{escape(namespace)}:{name}" if namespace else name


def channel_pattern(namespace: str | None, pattern: str) -> str:
    """A pattern of channels under a namespace, whose own text matches itself alone."""
    own = _GLOB.sub(r"\\\g<0>", channel(namespace, ""))
    return own + pattern


def lane_key(namespace: str | None, lane: str) -> str:
    """Where a dispatcher lane keeps its last sequence and outcomes."""
    return f"{escape(namespace)}:$Lane:{lane}" if namespace else f"$Lane:{lane}"
