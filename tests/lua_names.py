"""Which global names a Lua 5.1 text reads and assigns: a tokeniser and a stack of scopes, no grammar.

Lenient where leniency is harmless: a name declared by `local x = …` is known in its own initialiser, and names of a
`repeat` block stay known after its `until`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

BUILTIN = frozenset(
    "KEYS ARGV redis server cjson cmsgpack struct bit string table math tonumber tostring type pairs ipairs next pcall"
    " error unpack select assert setmetatable rawget".split()
)
"""The names a script finds, less those that load code."""

KEYWORDS = frozenset(
    "and break do else elseif end false for function if in local nil not or repeat return then true until while".split()
)
TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>--\[(?P<c>=*)\[.*?\](?P=c)\]|--[^\n]*)
      | (?P<string>\[(?P<s>=*)\[.*?\](?P=s)\]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<number>0[xX][\da-fA-F]+|\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>\.\.\.|\.\.|==|~=|<=|>=|.)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    kind: str
    text: str
    line: int


class Use(NamedTuple):
    """A global name in use; `assigned` when it is written to."""

    name: str
    line: int
    assigned: bool


def tokens(text: str) -> list[Token]:
    """The tokens that mean something, ended by an empty one."""
    found = []
    line = 1
    for match in TOKEN.finditer(text):
        kind = next(one for one in ("space", "comment", "string", "number", "name", "mark") if match[one] is not None)
        if kind == "name" and match[0] in KEYWORDS:
            kind = "keyword"
        if kind not in ("space", "comment"):
            found.append(Token(kind, match[0], line))
        line += match[0].count("\n")
    return [*found, Token("end", "", line)]


class Scopes:
    """Walks tokens and keeps what is declared; `used` collects the names that are declared nowhere."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens(text)
        self.used: list[Use] = []
        # What is open: (opener, names declared in it). Brackets open nothing but tell tables from blocks.
        self.open: list[tuple[str, set[str]]] = [("chunk", set())]
        self.loop_names: list[str] = []
        self.at = 0

    def walk(self) -> list[Use]:
        """Every use of a global name."""
        while self.tokens[self.at].kind != "end":
            token = self.tokens[self.at]
            self.at += 1
            if token.kind == "keyword":
                self.keyword(token.text)
            elif token.text in ("(", "{", "["):
                self.open.append((token.text, set()))
            elif token.text in (")", "}", "]"):
                self.open.pop()
            elif token.kind == "name":
                self.name(token)
        return self.used

    def keyword(self, word: str) -> None:
        if word == "local":
            self.local()
        elif word == "function":
            self.function()
        elif word == "for":
            self.loop_names = self.names()
        elif word in ("do", "then", "else", "repeat"):
            if word == "else":
                self.open.pop()
            self.open.append((word, set(self.loop_names) if word == "do" else set()))
            self.loop_names = [] if word == "do" else self.loop_names
        elif word in ("end", "elseif"):
            self.open.pop()
        elif word == "until":
            self.declare(*self.open.pop()[1])

    def local(self) -> None:
        if self.tokens[self.at].text == "function":
            self.declare(self.tokens[self.at + 1].text)
            return
        self.declare(*self.names())

    def function(self) -> None:
        """The name, if there is one, then the parameters in a scope of their own."""
        parameters = set()
        while (token := self.tokens[self.at]).text != "(":
            if token.kind == "name" and self.tokens[self.at - 1].text == "function":
                plain = self.tokens[self.at + 1].text == "("
                self.use(token, assigned=plain)
            if token.text == ":":
                parameters.add("self")
            self.at += 1
        self.at += 1
        parameters.update(self.names())
        while self.tokens[self.at].text != ")":
            self.at += 1
        self.at += 1
        self.open.append(("function", parameters))

    def names(self) -> list[str]:
        """A list of names, separated by commas."""
        found = []
        while self.tokens[self.at].kind == "name":
            found.append(self.tokens[self.at].text)
            self.at += 1
            if self.tokens[self.at].text != ",":
                break
            self.at += 1
        return found

    def name(self, token: Token) -> None:
        before, after = self.tokens[self.at - 2].text if self.at > 1 else "", self.tokens[self.at].text
        is_field = before in (".", ":")
        is_table_key = self.open[-1][0] == "{" and after == "=" and before in ("{", ",", ";")
        if not is_field and not is_table_key:
            self.use(token, assigned=after == "=")

    def use(self, token: Token, *, assigned: bool) -> None:
        if not any(token.text in names for _, names in self.open):
            self.used.append(Use(token.text, token.line, assigned))

    def declare(self, *names: str) -> None:
        self.open[-1][1].update(names)


def globals_used(text: str) -> list[Use]:
    """Uses of names that the text does not declare, other than reads of Redis's own."""
    return [use for use in Scopes(text).walk() if use.assigned or use.name not in BUILTIN]
