"""Lua files → scripts ready to be sent: headers read, includes flattened, the sha computed.

Every file opens with a header of `-- name: text` lines. A line `-- include: lib/decimal.lua`, relative to this
folder, stands for that file's text; each file is included once, where it is first asked for. An indented one stands
in a function or a branch, and counts for nothing outside of it. A line `-- operations: save select+matching` has the
table `operations` take `operations.save` from `save.lua`, with what that file includes and the text around it does
not, when it is first asked for: a call pays for what it carries. Operations joined by `+` share what they include, so
that a script doesn't hold it twice.

In the same way a line `-- later: lib/a.lua` has the table `later` take what `lib/a.lua` defines, when something of it
is first asked for. An operation declares that table (`local later = {}`) before its includes, which may ask it, and
lists after them all that it puts off: that sees what is included, and asks `later` for the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import msgspec

SCRIPT_HEADER = ("purpose", "keys", "args", "reply")
FRAGMENT_HEADER = ("purpose", "defines")
"""What the header of a file must tell: of a script or an operation, and of a fragment in `lib/`."""

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r"\s*-- (include|operations|later): (\S.*?)\s*")
_LISTS = ("operations", "later")
"""Kinds of lines whose list goes on in the next line."""
_HEADER = re.compile(r"-- (\w+): (\S.*)")
_COMMENT = re.compile(r"\s*(--(?!\[\[).*)?")


class Script(msgspec.Struct, frozen=True):
    """One script: its file name, its text without includes and comments, the sha1 of that text, its header."""

    name: str
    text: str
    sha: str
    header: Mapping[str, str]


@cache
def load(name: str) -> Script:
    """The script in the file `name` (`"run.lua"`). ValueError for an incomplete header or a circle of includes."""
    return assemble(name, _read(name))


def assemble(name: str, text: str) -> Script:
    """A script from a text that is in no file; its includes are those of this folder."""
    header = _header(name, text)
    flat = "\n".join(_flatten(name, text, chain=(), included=set())) + "\n"
    return Script(name, flat, hashlib.sha1(flat.encode(), usedforsecurity=False).hexdigest(), header)


@cache
def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _header(name: str, text: str) -> Mapping[str, str]:
    header = {}
    for line in text.splitlines():
        found = _HEADER.fullmatch(line)
        if found is None or found[1] in ("include", *_LISTS):
            break
        header[found[1]] = found[2].strip()
    required = FRAGMENT_HEADER if name.startswith("lib/") else SCRIPT_HEADER
    if missing := [f"-- {word}: …" for word in required if word not in header]:
        raise ValueError(f"{name} must begin with the lines {', '.join(missing)}")
    return MappingProxyType(header)


@cache
def _parts(text: str) -> tuple[tuple[str, str], ...]:
    """Lines of code ("", line), and what stands for others ("include" or "within", file) and ("operations", names)."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        special = _INCLUDE.fullmatch(line)
        how = "within" if special and special[1] == "include" and line[0] == " " else special and special[1]
        if special and found and special[1] == found[-1][0] and special[1] in _LISTS:
            found[-1] = (special[1], f"{found[-1][1]} {special[2]}")
        elif special:
            found.append((str(how), special[2]))
        elif not _COMMENT.fullmatch(line):
            found.append(("", line.rstrip()))
    return tuple(found)


def _flatten(name: str, text: str, *, chain: tuple[str, ...], included: set[str]) -> list[str]:
    """The lines of a text with those of its includes in their place, less comments and empty lines."""
    if name in chain:
        raise ValueError(f"includes go in a circle: {' → '.join((*chain, name))}")
    if name in included:
        return []
    included.add(name)
    _header(name, text)
    lines: list[str] = []
    for how, what in _parts(text):
        if how:
            lines += _INCLUDERS[how](what, (*chain, name), included)
        else:
            lines.append(what)
    return lines


def _include(name: str, chain: tuple[str, ...], included: set[str]) -> list[str]:
    """The lines that stand for an include."""
    return _flatten(name, _read(name), chain=chain, included=included)


def _within(name: str, chain: tuple[str, ...], included: set[str]) -> list[str]:
    """The lines that stand for an include in a function or a branch: what they define is known there alone."""
    return _include(name, chain, set(included))


def _operations(groups: str, chain: tuple[str, ...], included: set[str]) -> list[str]:
    """The lines that stand for operations, each of which sees what is included around them."""
    lines = []
    for group in groups.split():
        names, within = group.split("+"), set(included)
        body = [line for name in names for line in _include(f"{name}.lua", chain, within)]
        lines += _asked_for(names, body)
    return _on_demand("operations", lines)


def _later(groups: str, chain: tuple[str, ...], included: set[str]) -> list[str]:
    """The lines that stand for fragments whose definitions are put off."""
    lines = []
    for group in groups.split():
        files, within = group.split("+"), set(included)
        names = [name for file in files for name in _header(file, _read(file))["defines"].split(", ")]
        body = [line for file in files for line in _include(file, chain, within)]
        body.append(f"{', '.join(f'later.{name}' for name in names)} = {', '.join(names)}")
        lines += _asked_for(names, body)
    return _on_demand("later", lines)


def _asked_for(names: list[str], body: list[str]) -> list[str]:
    """Lines that run where one of these names is asked for."""
    condition = " or ".join(f"name == '{name}'" for name in names)
    return [f"if {condition} then", *body, "end"]


def _on_demand(table: str, lines: list[str]) -> list[str]:
    """Lines that run when something is asked for that the table lacks."""
    return [
        f"setmetatable({table}, {{__index = function(_, name)",
        *lines,
        f"return rawget({table}, name)",
        "end})",
    ]


_INCLUDERS = {"include": _include, "within": _within, "operations": _operations, "later": _later}
