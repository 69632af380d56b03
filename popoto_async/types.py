"""Aliases and type variables shared by all layers."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    class Declared(Any):  # type: ignore[misc]  # the only Any base: it lets `name: str = KeyField()` pass
        """A base of fields, to checkers: an instance of a subclass of Any may stand where any type is expected."""

else:

    def _plain_type_var(name: str, **_: Any) -> Any:
        # `default=` (PEP 696) is in typing from 3.13 on, and means nothing at run time.
        return typing.TypeVar(name)

    TypeVar = _plain_type_var
    Declared = object

__all__ = ["UNSET", "AnyT", "Declared", "Row", "T", "TextT", "TypeVar"]

T = TypeVar("T")
AnyT = TypeVar("AnyT", default=Any)
TextT = TypeVar("TextT", default=str)
"""The type of a field's values: str, where neither `type=` nor an annotation says otherwise."""

Row = Mapping[str, Any]
"""Field name → value: what entries are computed from."""


class _Unset:
    """The absence of an argument where None is a value."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET: Final[Any] = _Unset()
