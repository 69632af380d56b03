"""What the two checkers cannot know, or know apart: `# E pyright` / `# E mypy` is an error in that one only."""

from typing import Any, assert_type

from popoto_async import Attr, Field, IntField, KeyField, Model, SortedField
from popoto_async.expressions import Condition


class Bare(Model):
    name = KeyField()
    rating = SortedField(type=float)


# A dataclass_transform sees annotated fields only; mypy makes no __init__ where there are none.
Bare(name="x")  # E pyright
Bare.create(name="x")  # `create` takes any keyword


class Mixed(Model):
    name: Attr[str] = KeyField()
    rating = SortedField(type=float)


Mixed(name="x", rating=3)  # E


class Open(Model, init=False):
    name: Attr[str] = KeyField()
    rating = SortedField(type=float)


Open(name="x", rating=3)


class SubOfOpen(Open):  # init=False is not inherited
    other: Attr[str] = KeyField()


SubOfOpen(name="x", other="y")
SubOfOpen(name="x", rating=3)  # E


class Word(Field[str]):
    """A user's kind that fixes its type: its Attr can be nothing else in pyright."""


class Contradictions(Model):
    a: Attr[str | None] = Word()  # E pyright
    b: Attr[str] = IntField()  # E pyright
    c: Attr[int] = KeyField(type=str)  # E
    d: str = IntField()  # the price of the plain form: any kind passes for any type


assert_type(Bare.rating >= 4, Condition)
assert_type(Bare.rating >= "x", bool)  # the same price: a wrong operand on a bare field is not found
assert_type(4 <= Bare.rating, bool)  # nor is the reversed form a Condition; filter() takes it
assert_type(Bare.rating.nonsense, Any)  # nor an unknown attribute of a bare field, on the class
