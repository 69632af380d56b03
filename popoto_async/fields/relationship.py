"""References to records: Relationship, the stubs that stand for what was not loaded, and which class a name means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from popoto_async.codec import Codec
from popoto_async.errors import DefinitionError, nearest, shorten
from popoto_async.fields.base import Field, Options
from popoto_async.keys import NULL, record_parts
from popoto_async.plan import MEMBER, AnyOf, Entry, Index, Nothing, Refers, Test
from popoto_async.types import AnyT, Row


class OnDelete(StrEnum):
    """What happens to a record when the one it refers to is deleted."""

    SET_NULL = "SET_NULL"
    CASCADE = "CASCADE"
    PROTECT = "PROTECT"
    DO_NOTHING = "DO_NOTHING"


SET_NULL = OnDelete.SET_NULL
CASCADE = OnDelete.CASCADE
PROTECT = OnDelete.PROTECT
DO_NOTHING = OnDelete.DO_NOTHING

Choice = OnDelete | Literal["SET_NULL", "CASCADE", "PROTECT", "DO_NOTHING"]


class Relationship(Field[AnyT]):
    """A reference to a record of another model, or of the same one.

    `model` is the class, its name (which may be defined later) or "self". It takes an instance, a stub
    (`Restaurant.ref(name=…)`) or a redis_key, and reads as an instance: a stub until it is loaded, which knows its key
    alone. `await item.restaurant` loads it. When the record referred to is deleted, `on_delete` decides: SET_NULL (the
    reference becomes null), CASCADE (this record goes, too), PROTECT (it can't be deleted), DO_NOTHING. `related_name`
    is the attribute of the other class that queries what refers to a record. Filters: `=`, `__in`, `__isnull`, and
    through it `restaurant__cuisine="Thai"`.
    """

    is_relation: ClassVar[bool] = True

    if TYPE_CHECKING:

        def __set__(self, instance: object, value: AnyT | str) -> None: ...

    def __init__(
        self,
        model: type[AnyT] | str,
        *,
        on_delete: Choice = SET_NULL,
        related_name: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        if options.get("unique"):
            raise self.refused("unique=True is not possible on this kind of field", "use Meta.unique_together")
        super().__init__(None, **options)
        wanted: Any = model
        if not isinstance(wanted, str) and not hasattr(wanted, "_meta"):
            raise self.refused(f"takes a model, the name of one or 'self', not {shorten(model)}")
        if on_delete not in OnDelete.__members__:
            raise self.refused(f"on_delete can't be {shorten(on_delete)}", f"choose {', '.join(OnDelete)}")
        self.wanted, self.on_delete, self.related_name = wanted, OnDelete(on_delete), related_name
        self._target: Any = None
        self.owner: Any = None

    # Declaring ---------------------------------------------------------------------------------------------------

    def _declared_type(self, annotated: type | str | None) -> type:
        return object

    def _codec(self) -> Codec:
        return Codec(object, self.encode, self._read, token=self.key_of, compare="text")

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """Name the index."""
        super().connect(fields)
        self._name = f"Rel:{self.name}"
        if self.on_delete is SET_NULL and not self.null:
            raise self.refused("SET_NULL needs null=True", "choose on_delete=CASCADE, PROTECT or DO_NOTHING")
        self._label = f"{self.model.lower()}.{self.name}"

    def adopt(self, owner: type) -> None:
        """Learn the class that the field belongs to; its neighbours tell what a name means."""
        self.owner = owner

    def link(self) -> Any:
        """The class that the field refers to, as far as it is defined by now; of several of one place the latest."""
        wanted = self.wanted
        if wanted == "self":
            self._target = self.owner
        elif isinstance(wanted, str):
            self._target = self._named(wanted) or self._target
        elif "<locals>" in wanted.__qualname__:
            self._target = wanted
        else:
            self._target = [known for known in classes(self.owner) if place(known) == place(wanted)][-1]
        return self._target

    def may_mean(self, cls: type) -> bool:
        """Whether the field refers to this class, as far as names tell."""
        wanted = self.wanted
        if isinstance(wanted, str):
            return wanted in (cls.__name__, ".".join(place(cls)))
        return place(wanted) == place(cls)

    def _named(self, name: str) -> Any:
        """The class of this name: of the same scope, else of the same module, else the only one there is."""
        known = [each for each in classes(self.owner) if name in (each.__name__, ".".join(place(each)))]
        scope = self.owner.__qualname__.rpartition(".")[0]
        own = [each for each in known if each.__module__ == self.owner.__module__]
        inner = [each for each in own if each.__qualname__.rpartition(".")[0] == scope]
        plain = [each for each in own if "<locals>" not in each.__qualname__]
        rest = [each for each in known if "<locals>" not in each.__qualname__]
        found = inner or plain or rest
        if found is rest and len({place(each) for each in rest}) > 1:
            places = " and ".join(sorted({".".join(place(each)) for each in rest}))
            raise self.refused(f"several models are called {name!r}: {places}", "give the class, or its full name")
        return found[-1] if found else None

    @property
    def target(self) -> Any:
        """The class that the field refers to. DefinitionError where no such class is defined."""
        if self._target is None and self.link() is None:
            names = sorted({each.__name__ for each in classes(self.owner)})
            raise DefinitionError(
                f"{self.model}.{self.name} refers to a model called {self.wanted!r}, and none is defined",
                model=self.model,
                field=self.name,
                hint=nearest(self.wanted, names),
            )
        return self._target

    # Values ------------------------------------------------------------------------------------------------------

    def key_of(self, value: Any) -> str:
        """The key of the record that a valid value stands for."""
        return value.__dict__.get("_key") or str(value.db_key.redis_key)

    def _is_record(self, value: Any) -> bool:
        kind, target = type(value), self.target
        return kind is target or (hasattr(kind, "_meta") and place(kind) == place(target))

    def _read(self, raw: bytes) -> Any:
        return stub(self.target, raw.decode(), self._label)

    def normalise(self, value: Any) -> Any:
        """A redis_key becomes a stub."""
        if isinstance(value, str):
            target = self.target
            try:
                found = stub(target, value, self._label)
                named = target.ref(**{name: found.__dict__[name] for name in target._meta.key_names})
            except (ValueError, KeyError, TypeError):
                return value
            return found if self.key_of(named) == value else value
        return value

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value: it is no record of the class, or one without a key."""
        if value is None:
            return super().problems(value)
        name = self.target.__name__
        if isinstance(value, str):
            return [f"{shorten(value)} is no key of {name}"]
        if not self._is_record(value):
            return [f"must be a {name}, a stub or a redis_key, not {type(value).__name__} {shorten(value)}"]
        if not value.is_saved:
            keys: dict[str, Any] = {field.name: value.__dict__.get(field.name) for field in value._meta.keys}
            if wrong := [key for key, part in keys.items() if value._meta.fields[key].problems(part)]:
                return [f"the key of that {name} is not complete: {', '.join(sorted(wrong))}"]
        return super().problems(value)

    def _misfit(self, value: Any) -> str | None:
        return None

    def checked(self, value: Any) -> bytes | None:
        """The key, as it is stored."""
        return None if self.problems(value) else self.codec.encode(value)

    def encode(self, value: Any) -> bytes:
        """The key, as it is stored."""
        return self.key_of(value).encode()

    def plain(self, value: Any) -> Any:
        """The key as text."""
        return None if value is None else self.key_of(value)

    # Indexes and queries -----------------------------------------------------------------------------------------

    def indexes(self) -> tuple[Index, ...]:
        """One sorted set per record referred to, scores 0: who refers to it."""
        return (Index(self._name, MEMBER, (self.name,), tailed=True),)

    def entries(self, value: Any, row: Row) -> tuple[Entry, ...]:
        """A place in the set of the record referred to, or of null."""
        return (Entry(self._name, NULL if value is None else self.key_of(value)),)

    @property
    def index(self) -> str:
        """The name of the index."""
        return self._name

    def comparable(self, lookup: str, value: Any) -> Any:
        """A record, a stub or a key to compare with."""
        value = self.normalise(value)
        if value is None or (wrong := self.problems(value)):
            raise self.invalid(lookup, value, "takes records, not None" if value is None else wrong[0])
        return value

    def test_null(self, tail: str) -> Test:
        """The set of null."""
        return AnyOf(self._name, (NULL,))

    def test_equal(self, values: tuple[Any, ...], tail: str) -> Test:
        """The sets of the records."""
        tails = tuple(dict.fromkeys(self.key_of(value) for value in values))
        return Refers(self._name, tails, self.target._meta) if tails else Nothing()


# Stubs ----------------------------------------------------------------------------------------------------------------


def stub(cls: Any, key: str, label: str) -> Any:
    """An instance that knows its key alone; `label` is what to write to load it. ValueError for a key of others."""
    keys = cls._meta.keys
    parts = record_parts(key, cls._meta.options.name, len(keys))
    if parts is None:
        raise ValueError(f"{key!r} is no key of {cls.__name__}")
    state: dict[str, Any] = {}
    stored: dict[str, bytes] = {}
    for field, text in zip(keys, parts, strict=True):
        try:
            value = state[field.name] = field.from_part(text)
            if value is not None:
                stored[field.name] = field.codec.encode(value)
        except Exception:  # a form that can't be told from its part: the field has to be loaded
            state.pop(field.name, None)
    instance = cls.__new__(cls)
    object.__setattr__(instance, "__dict__", {**state, "_key": key, "_stored": stored, "_stub": label})
    return instance


# Classes --------------------------------------------------------------------------------------------------------------


def place(cls: type) -> tuple[str, str]:
    """Where a class is defined; a later one of the same place replaces an earlier one."""
    return cls.__module__, cls.__qualname__


def classes(cls: Any) -> Iterator[Any]:
    """All models that descend from the same base as this one, in the order of their definition."""
    root = next(base for base in reversed(cls.__mro__) if "_classes" in vars(base))
    seen: dict[Any, None] = {}

    def descend(parent: Any) -> None:
        for child in parent.__subclasses__():
            if hasattr(vars(child).get("_meta"), "options") and child not in seen:
                seen[child] = None
                descend(child)

    descend(root)
    return iter(seen)


def relations(fields: Mapping[str, Field[Any]]) -> list[Relationship[Any]]:
    """The relations among some fields."""
    return [field for field in fields.values() if isinstance(field, Relationship)]


def relation(fields: Mapping[str, Field[Any]], name: str) -> Relationship[Any] | None:
    """The relation of this name, None where there is none."""
    field = fields.get(name)
    return field if isinstance(field, Relationship) else None


Linked = Callable[[Any, Relationship[Any], Any], None]


def link_all(cls: Any, attach: Linked) -> None:
    """Tell `attach` of every relation that this new class has, and of those that lead to it."""
    for field in relations(cls._meta.fields):
        field.adopt(cls)
    known: Iterable[Any] = [each for each in classes(cls) if not each._meta.options.abstract]
    for model in known:
        for field in relations(model._meta.fields):
            if field.owner is model and (model is cls or field.may_mean(cls)):
                target = field.link()
                if target is not None and (model is cls or target is cls):
                    attach(model, field, target)
