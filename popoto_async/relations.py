"""Relations between classes: linked as the classes are defined, and seen from the other side."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

from popoto_async.declaration import RESERVED
from popoto_async.errors import DefinitionError, ModelException
from popoto_async.fields.relationship import DO_NOTHING, Relationship, link_all, place
from popoto_async.query import Query
from popoto_async.schema import Referrer


class Reverse:
    """`related_name` on the class referred to: a query of the records that refer to an instance."""

    def __init__(self, owner: Any, field: Relationship[Any]) -> None:
        self.owner, self.field = owner, field

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """The query; read from the class, this descriptor itself."""
        return self if instance is None else Query(self.owner).filter(**{self.field.name: instance})

    def __set__(self, instance: Any, value: Any) -> NoReturn:
        name = f"{self.field.model}.{self.field.name}"
        raise ModelException(
            f"{type(instance).__name__}.{self.field.related_name} is a query of {name} and can't be assigned",
            model=type(instance).__name__,
            hint=f"set {self.field.name} of the records that are to refer to this one, and save them",
        )


def link(cls: Any) -> None:
    """Connect a new class with those that its relations lead to, and with those whose relations lead to it."""
    link_all(cls, _attach)


def _attach(owner: Any, field: Relationship[Any], target: Any) -> None:
    here, there = owner._meta, target._meta
    if there.options.abstract:
        raise field.refused(f"{target.__name__} is abstract and has no records")
    if here.options.database != there.options.database and field.on_delete is not DO_NOTHING:
        raise field.refused(f"{target.__name__} is in another database", "choose on_delete=DO_NOTHING")
    if field.related_name is not None:
        _name_reverse(owner, field, target)
    known = [each for each in there.referrers if (each.place, each.field.name) != (place(owner), field.name)]
    there.referrers[:] = [*known, Referrer(here, field, place(owner))]


def _name_reverse(owner: Any, field: Relationship[Any], target: Any) -> None:
    name: Any = field.related_name
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or "__" in name:
        raise field.refused(f"related_name must be a name without '__', not {name!r}")
    other = inspect.getattr_static(target, name, None)
    ours = isinstance(other, Reverse) and (place(other.owner), other.field.name) == (place(owner), field.name)
    if name in RESERVED or (other is not None and not ours):
        what = f"{other.field.model}.{other.field.name}" if isinstance(other, Reverse) else "an attribute"
        raise DefinitionError(
            f"{field.model}.{field.name}: related_name={name!r}: {target.__name__} has {what} of that name",
            model=field.model,
            field=field.name,
            hint="choose another related_name",
        )
    setattr(target, name, Reverse(owner, field))
