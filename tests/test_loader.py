"""The script loader: headers, includes, shas, and that every Lua file of the package is in order."""

from __future__ import annotations

import hashlib
from importlib import resources

import pytest

from popoto_async.scripts import loader
from popoto_async.scripts.loader import assemble, load

HEADER = "-- purpose: p\n-- keys: k\n-- args: a\n-- reply: r\n"
FOLDER = resources.files("popoto_async.scripts")
FILES = [
    *(file.name for file in FOLDER.iterdir() if file.name.endswith(".lua")),
    *(f"lib/{file.name}" for file in (FOLDER / "lib").iterdir()),
]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A folder of scripts that a test fills."""
    found: dict[str, str] = {}
    monkeypatch.setattr(loader, "_read", found.__getitem__)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_file_has_a_header(name):
    assert assemble(name, (FOLDER / name).read_text()).header["purpose"]


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_flat_after_loading(name):
    script = load(name)
    assert "-- include" not in script.text
    assert "\t" not in script.text


def test_a_script_is_loaded_once_and_named_by_its_text():
    script = load("select.lua")
    assert script is load("select.lua")
    assert script.name == "select.lua"
    assert script.sha == hashlib.sha1(script.text.encode()).hexdigest()


def test_a_header_is_read_word_by_word():
    assert dict(assemble("x.lua", HEADER + "-- just a comment: not a header\n").header) == {
        "purpose": "p", "keys": "k", "args": "a", "reply": "r",
    }  # fmt: skip


@pytest.mark.parametrize("word", ["purpose", "keys", "args", "reply"])
def test_a_script_without_a_word_of_its_header_is_refused(word):
    text = "\n".join(line for line in HEADER.splitlines() if not line.startswith(f"-- {word}"))
    with pytest.raises(ValueError, match=rf"x\.lua must begin with the lines -- {word}: …"):
        assemble("x.lua", text)


def test_a_header_comes_first():
    with pytest.raises(ValueError, match="must begin with"):
        assemble("x.lua", "local a = 1\n" + HEADER)


def test_a_fragment_says_what_it_defines():
    with pytest.raises(ValueError, match=r"lib/x\.lua must begin with the lines -- defines: …"):
        assemble("lib/x.lua", "-- purpose: p\n")
    assert assemble("lib/x.lua", "-- purpose: p\n-- defines: d\n").header["defines"] == "d"


def test_the_header_of_an_included_file_is_required_too(files):
    files["lib/a.lua"] = "local a = 1\n"
    with pytest.raises(ValueError, match=r"lib/a\.lua must begin with"):
        assemble("x.lua", HEADER + "-- include: lib/a.lua\n")


def test_includes_stand_where_they_are_first_asked_for(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    files["lib/b.lua"] = "-- purpose: p\n-- defines: b\n-- include: lib/a.lua\nlocal b = a\n"
    script = assemble("x.lua", HEADER + "local x = 0\n-- include: lib/b.lua\n-- include: lib/a.lua\nreturn b\n")
    assert script.text == "local x = 0\nlocal a = 1\nlocal b = a\nreturn b\n"


def test_an_include_may_stand_inside_a_function(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    text = HEADER + "local function f()\n  -- include: lib/a.lua\n  return a\nend\n"
    assert assemble("x.lua", text).text == "local function f()\nlocal a = 1\n  return a\nend\n"


def test_what_is_included_in_a_branch_is_not_known_after_it(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    text = (
        HEADER + "if x then\n  -- include: lib/a.lua\nend\n-- include: lib/a.lua\n  -- include: lib/a.lua\nreturn a\n"
    )
    assert assemble("x.lua", text).text == "if x then\nlocal a = 1\nend\nlocal a = 1\nreturn a\n"


def test_operations_are_defined_when_they_are_asked_for_with_what_is_not_around_them(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    files["lib/b.lua"] = "-- purpose: p\n-- defines: b\nlocal b = 2\n"
    includes = "-- include: lib/a.lua\n-- include: lib/b.lua\n"
    for name in ("save", "load"):
        files[f"{name}.lua"] = HEADER + includes + f"operations.{name} = function() return a + b end\n"
    text = HEADER + "local operations = {}\n-- include: lib/a.lua\n-- operations: save load\n"
    assert assemble("x.lua", text).text.splitlines() == [
        "local operations = {}", "local a = 1",
        "setmetatable(operations, {__index = function(_, name)",
        "if name == 'save' then", "local b = 2", "operations.save = function() return a + b end", "end",
        "if name == 'load' then", "local b = 2", "operations.load = function() return a + b end", "end",
        "return rawget(operations, name)",
        "end})",
    ]  # fmt: skip


def test_operations_that_are_joined_share_what_they_include(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    for name in ("save", "load", "drop"):
        files[f"{name}.lua"] = HEADER + f"-- include: lib/a.lua\noperations.{name} = a\n"
    text = HEADER + "-- operations: save+load\n-- operations: drop\n"
    assert assemble("x.lua", text).text.splitlines() == [
        "setmetatable(operations, {__index = function(_, name)",
        "if name == 'save' or name == 'load' then",
        "local a = 1", "operations.save = a", "operations.load = a", "end",
        "if name == 'drop' then", "local a = 1", "operations.drop = a", "end",
        "return rawget(operations, name)",
        "end})",
    ]  # fmt: skip


def test_what_is_put_off_is_defined_when_something_of_it_is_asked_for(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    files["lib/b.lua"] = "-- purpose: p\n-- defines: b, c\n-- include: lib/a.lua\nlocal b, c = 2, a\n"
    files["lib/d.lua"] = "-- purpose: p\n-- defines: d\n-- include: lib/a.lua\nlocal d = a\n"
    text = HEADER + "local later = {}\n-- later: lib/b.lua\n-- later: lib/d.lua\nreturn later.c\n"
    assert assemble("x.lua", text).text.splitlines() == [
        "local later = {}",
        "setmetatable(later, {__index = function(_, name)",
        "if name == 'b' or name == 'c' then", "local a = 1", "local b, c = 2, a", "later.b, later.c = b, c", "end",
        "if name == 'd' then", "local a = 1", "local d = a", "later.d = d", "end",
        "return rawget(later, name)",
        "end})",
        "return later.c",
    ]  # fmt: skip


def test_what_is_put_off_sees_what_is_included_and_asks_for_the_others(files):
    files["lib/a.lua"] = "-- purpose: p\n-- defines: a\nlocal a = 1\n"
    files["lib/b.lua"] = "-- purpose: p\n-- defines: b\n-- include: lib/a.lua\nlocal b = a + later.c\n"
    files["lib/c.lua"] = "-- purpose: p\n-- defines: c\nlocal c = 2\n"
    text = HEADER + "local later = {}\n-- include: lib/a.lua\n-- later: lib/b.lua lib/c.lua\nreturn later.b\n"
    assert assemble("x.lua", text).text.splitlines() == [
        "local later = {}", "local a = 1",
        "setmetatable(later, {__index = function(_, name)",
        "if name == 'b' then", "local b = a + later.c", "later.b = b", "end",
        "if name == 'c' then", "local c = 2", "later.c = c", "end",
        "return rawget(later, name)",
        "end})",
        "return later.b",
    ]  # fmt: skip


def test_a_circle_is_named(files):
    for name, other in [("a", "b"), ("b", "c"), ("c", "a")]:
        files[f"lib/{name}.lua"] = f"-- purpose: p\n-- defines: {name}\n-- include: lib/{other}.lua\n"
    with pytest.raises(ValueError, match=r"x\.lua → lib/a\.lua → lib/b\.lua → lib/c\.lua → lib/a\.lua"):
        assemble("x.lua", HEADER + "-- include: lib/a.lua\n")


def test_comments_go_and_code_stays():
    text = HEADER + "\n  -- why\nlocal a = '--' -- kept\n\n--[[ b ]] local b = 2\n"
    assert assemble("x.lua", text).text == "local a = '--' -- kept\n--[[ b ]] local b = 2\n"
