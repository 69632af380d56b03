"""Models: what users declare, and the verbs they await. A verb reads as needs → plan → dispatch; no more is here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Collection, Coroutine, Generator, Iterable
from datetime import datetime
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast, dataclass_transform

from popoto_async import bulk, saving
from popoto_async.bulk import Summary
from popoto_async.declaration import declare, unknown_field
from popoto_async.errors import DefinitionError, ValidationError, shorten
from popoto_async.fields.relationship import stub
from popoto_async.pending import verb
from popoto_async.pushing import push
from popoto_async.query import QueryDescriptor
from popoto_async.records import database_of, load, problems, require_concrete, require_key
from popoto_async.references import complete, follow
from popoto_async.relations import link
from popoto_async.saving import ending_at, ending_in, timing
from popoto_async.schema import Schema

IfExists = Literal["overwrite", "error"]


class DbKey(NamedTuple):
    """Where a record stands."""

    redis_key: str


@dataclass_transform(kw_only_default=True, eq_default=False)
class Model:
    """A record type. Subclass it and declare fields.

    Constructing sends nothing; every verb that talks to the server is awaited and costs one round trip, which
    concurrent awaits share. Two instances are equal when they are of one class and stored under one key.
    """

    _meta: ClassVar[Schema]
    _plain: ClassVar[bool] = True
    """Whether nothing of this class wants to happen around a save."""
    _plain_delete: ClassVar[bool] = True
    """The same of a deletion."""
    _classes: ClassVar[dict[str, type[Model]]] = {}
    query: ClassVar[QueryDescriptor] = QueryDescriptor()

    def __init_subclass__(cls, *, init: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._meta = declare(cls)
        cls._plain = _inherits(cls, "save", "before_save", "after_save")
        cls._plain_delete = _inherits(cls, "delete", "before_delete", "after_delete")
        _register(cls)
        link(cls)

    def __init__(self, /, **values: Any) -> None:
        """Construct with values by field name; unknown names raise, wrong values don't (`is_valid()` tells)."""
        state, fields = self.__dict__, self._meta.fields
        for name, normalise, initial in self._meta.makers:
            if name in values:
                state[name] = normalise(values[name])
            else:
                state[name] = None if initial is None else normalise(initial())
        if not values.keys() <= fields.keys():
            raise unknown_field(self._meta.model, next(name for name in values if name not in fields), fields)

    def __setattr__(self, name: str, value: Any) -> None:
        field = self._meta.fields.get(name)
        if field is not None:
            self.__dict__[name] = field.normalise(value)
        elif name.startswith("_") or getattr(type(self), name, None) is not None:
            object.__setattr__(self, name, value)
        else:
            raise unknown_field(self._meta.model, name, self._meta.fields)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = self.__dict__.get("_key"), other.__dict__.get("_key")
        return self is other if mine is None or theirs is None else mine == theirs

    def __hash__(self) -> int:
        """Of the key: in sets and dicts an instance is found from its first save on, until it is renamed or deleted."""
        key = self.__dict__.get("_key")
        return object.__hash__(self) if key is None else hash((type(self), key))

    def __repr__(self) -> str:
        state, shown = self.__dict__, []
        for name, field in self._meta.fields.items():
            if name in state:  # of a relation its key: records may refer to one another in a circle
                shown.append(f"{name}={field.plain(state[name]) if field.is_relation else state[name]!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has too: all but what is under way."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_under_way", "_shown")}

    # Looking at an instance --------------------------------------------------------------------------------------

    @property
    def db_key(self) -> DbKey:
        """Where the record is stored; for a new instance, where it would be. `m.db_key.redis_key` is the text.

        ValidationError where a new instance has values that no key can have.
        """
        require_key(self._meta, self.__dict__)
        binding = database_of(self._meta).binding(self._meta)
        return DbKey(self.__dict__.get("_key") or binding.record_key(self.__dict__))

    @property
    def is_saved(self) -> bool:
        """Whether this instance was loaded or saved, and not deleted since."""
        return self.__dict__.get("_key") is not None

    def errors(self) -> dict[str, list[str]]:
        """What keeps the instance from being saved: `{field: [messages]}`."""
        return problems(self._meta, self.__dict__)

    def is_valid(self) -> bool:
        """Whether the instance could be saved as far as its values go."""
        return not self.errors()

    def to_dict(self) -> dict[str, Any]:
        """The values by field name, hidden fields left out."""
        fields = self._meta.fields
        return {name: field.plain(getattr(self, name)) for name, field in fields.items() if not name.startswith("_")}

    # References --------------------------------------------------------------------------------------------------

    @classmethod
    def ref(cls, /, **keys: Any) -> Self:
        """A stub: an instance that knows its key alone, to refer to a record or to change it without loading it.

        Takes the values of all key fields, sends nothing. Other attributes raise NotLoaded until it was awaited.
        """
        schema = cls._meta
        require_concrete(schema)
        for name in keys.keys() ^ schema.key_names:
            if name not in schema.key_names:
                raise unknown_field(schema.model, name, schema.key_names)
            raise ValidationError(
                f"{schema.model}.ref() needs the whole key, {name} is missing", model=schema.model, field=name
            )
        values = {name: schema.fields[name].normalise(value) for name, value in keys.items()}
        if wrong := problems(schema, values):
            name, messages = next(iter(wrong.items()))
            raise ValidationError(f"{schema.model}.ref(): {name} {messages[0]}", errors=wrong, model=schema.model)
        key = database_of(schema).binding(schema).record_key(values)
        return cast("Self", stub(cls, key, schema.model.lower()))

    def __await__(self) -> Generator[Any, Any, Self]:
        """The instance itself. A stub is loaded first: one round trip, RecordGone where there is no such record."""
        return complete(self).__await__()

    @verb
    async def fetch(self, relation: str, *, timeout: float | None = None) -> Any:
        """The record that a relation leads to, loaded; None where it is null or that record is gone.

        No round trip where it was loaded before, else one.
        """
        return await follow(self, relation, timeout)

    # Verbs of an instance ----------------------------------------------------------------------------------------

    async def before_save(self) -> None:
        """Called before validation; override it."""

    async def after_save(self) -> None:
        """Called when the record is stored; override it."""

    async def before_delete(self) -> None:
        """Called before the record is deleted; override it."""

    async def after_delete(self) -> None:
        """Called when the record is deleted; override it."""

    def save(
        self,
        update_fields: Collection[str] | None = None,
        *,
        if_exists: IfExists = "overwrite",
        if_gone: Literal["error", "create"] = "error",
        expire_in: float | None = None,
        expire_at: datetime | None = None,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, bool]:
        """Store the record; True when it is. One atomic round trip, however many indexes there are.

        A new instance stores everything, a stored one only what changed: two writers of different fields don't undo
        each other. A changed key moves the record. `update_fields` limits it to those fields (and the auto_now ones);
        none at all means to send nothing. `expire_in` (seconds from now) or `expire_at` (an instant; naive: UTC) gives
        the record a deadline, else `Meta.ttl` does; without either a deadline stays. `timeout` is in seconds.
        Raises ValidationError before anything is sent; UniqueViolation, AlreadyExists (`if_exists="error"`),
        StaleRecord or RecordGone (unless `if_gone="create"`) with nothing written.
        """
        schema, state = self._meta, self.__dict__

        def send(if_exists: str = if_exists) -> Coroutine[Any, Any, bool]:
            return saving.save(
                schema,
                state,
                update_fields=update_fields,
                if_exists=if_exists,
                expiry=lambda: timing(schema, expire_in, expire_at),
                timeout=timeout,
            )

        if update_fields is not None:
            saving.known_fields(schema, update_fields)
        if self._plain and not schema.referrers and if_gone == "error" and (update_fields is None or update_fields):
            return send()
        return self._save(send, update_fields, if_gone, if_exists, timeout)

    @verb
    async def _save(
        self,
        send: Callable[..., Coroutine[Any, Any, bool]],
        update_fields: Collection[str] | None,
        if_gone: str,
        if_exists: str,
        timeout: float | None,
    ) -> bool:
        if if_gone not in ("error", "create"):
            raise ValidationError(
                f'{self._meta.model}: if_gone is "error" or "create", not {shorten(if_gone)}',
                model=self._meta.model,
                value=if_gone,
            )
        if update_fields is not None and not update_fields:
            return True
        await self.before_save()
        began = asyncio.get_running_loop().time()
        if if_gone == "error":
            done = await send()
        else:
            done = await saving.save_or_create(self._meta, self.__dict__, send, if_exists)
        await saving.rewrite(self._meta, self.__dict__, timeout, began)
        await self.after_save()
        return done

    @verb
    async def delete(self, *, timeout: float | None = None) -> bool:
        """Remove the record with everything of it; True if it existed. One round trip. The instance is new then."""
        await self.before_delete()
        require_key(self._meta, self.__dict__)
        existed = await saving.delete(self._meta, self.__dict__, timeout)
        await self.after_delete()
        return existed

    def increment(self, field: str, by: Any = 1, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
        """Add to a number on the server, atomically and exactly; indexes follow. The new value. One round trip.

        Null counts as 0. RecordGone when the record was deleted.
        """
        return saving.increment(self._meta, self.__dict__, field, by, timeout)

    def _push(self, name: str, items: list[Any], value: Any, timeout: float | None) -> Coroutine[Any, Any, int]:
        return push(self._meta, self.__dict__, name, items, value, timeout)

    @verb
    async def refresh(self, *fields: str, timeout: float | None = None) -> Self:
        """Read the record (or some fields) again, over what was assigned. One round trip.

        RecordGone if it was deleted, ModelException for a new instance.
        """
        await saving.refresh(self._meta, self.__dict__, fields, timeout)
        return self

    @verb
    async def expire_in(self, seconds: float, *, timeout: float | None = None) -> None:
        """Have the record expire, `seconds` from now by the server's clock. One round trip.

        RecordGone if it was deleted, ModelException for a new instance; so do `expire_at` and `persist`.
        """
        await saving.expire(self._meta, self.__dict__, ending_in(self._meta, seconds), "expire_in", timeout)

    @verb
    async def expire_at(self, when: datetime, *, timeout: float | None = None) -> None:
        """Have the record expire at an instant (naive: UTC), to the millisecond. One round trip."""
        await saving.expire(self._meta, self.__dict__, ending_at(self._meta, when), "expire_at", timeout)

    @verb
    async def persist(self, *, timeout: float | None = None) -> None:
        """Take the record's deadline away. One round trip."""
        await saving.expire(self._meta, self.__dict__, {}, "persist", timeout)

    # Verbs of the class ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, /, *, if_exists: IfExists = "overwrite", **values: Any) -> Coroutine[Any, Any, Self]:
        """Construct and save. One round trip. `timeout=` bounds it, in seconds, unless a field has that name.

        ValidationError before anything is sent; UniqueViolation and, with `if_exists="error"` where the key is taken,
        AlreadyExists, with nothing written.
        """
        timeout = _call_timeout(cls, values)
        if cls._plain:
            return saving.create(cls, values, if_exists=if_exists, timeout=timeout)
        return cls._create(values, if_exists, timeout)

    @classmethod
    @verb
    async def _create(cls, values: dict[str, Any], if_exists: IfExists, timeout: float | None) -> Self:
        instance = cls(**values)
        await instance.save(if_exists=if_exists, timeout=timeout)
        return instance

    @classmethod
    def load(cls, /, **keys: Any) -> Coroutine[Any, Any, Self | None]:
        """The record with these key values, or None. One round trip; `timeout=` as for `create`.

        MultipleResults if part of a key fits several; InvalidLookup for what is no field, or no value of one.
        """
        timeout = _call_timeout(cls, keys)
        if keys.keys() == cls._meta.key_names:
            return load(cls, keys, timeout)
        return cls.query.timeout(timeout).get(**keys)

    @classmethod
    @verb
    async def exists(cls, /, **keys: Any) -> bool:
        """Whether a record with these values exists. One round trip; `timeout=` as for `create`."""
        return await cls.query.timeout(_call_timeout(cls, keys)).filter(**keys).exists()

    @classmethod
    @verb
    async def get_or_create(cls, /, defaults: dict[str, Any] | None = None, **lookup: Any) -> tuple[Self, bool]:
        """The record that `lookup` names, or a new one of lookup and defaults; and whether it is new.

        Atomic, one round trip. `lookup` gives the whole key, or a unique field.
        """
        return await bulk.get_or_create(cls, defaults, lookup)

    @classmethod
    @verb
    async def update_or_create(cls, /, defaults: dict[str, Any] | None = None, **lookup: Any) -> tuple[Self, bool]:
        """As `get_or_create`, but an existing record gets the defaults too: two round trips then."""
        while True:
            instance, created = await bulk.get_or_create(cls, defaults, lookup)
            if created or await bulk.apply(instance, defaults or {}):
                return instance, created

    @classmethod
    @verb
    async def create_many(
        cls,
        items: Iterable[Self | dict[str, Any]] | AsyncIterable[Self | dict[str, Any]],
        *,
        if_exists: IfExists = "overwrite",
        on_outcome: Callable[[Self | dict[str, Any], BaseException | None], Any] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Summary:
        """Create many records from dicts of values or new instances, in few round trips and flat memory.

        Never raises for one record: the summary counts, and keeps the first 1,000 failures.
        """
        return await bulk.create_many(cls, items, if_exists, on_outcome, progress)

    @classmethod
    @verb
    async def save_many(
        cls,
        items: Iterable[Self] | AsyncIterable[Self],
        *,
        on_outcome: Callable[[Self, BaseException | None], Any] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Summary:
        """Save many instances, each as `save()` would. Never raises for one record."""
        return await bulk.each(items, bulk.with_instances(cls, lambda item: item.save()), on_outcome, progress)

    @classmethod
    @verb
    async def delete_many(
        cls,
        items: Iterable[Self] | AsyncIterable[Self],
        *,
        on_outcome: Callable[[Self, BaseException | None], Any] | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> Summary:
        """Delete many instances, each as `delete()` would. Never raises for one record."""
        return await bulk.each(items, bulk.with_instances(cls, lambda item: item.delete()), on_outcome, progress)


def _inherits(cls: type[Model], *names: str) -> bool:
    """Whether these are the methods of `Model` itself."""
    return all(getattr(cls, name) is getattr(Model, name) for name in names)


def _call_timeout(cls: type[Model], values: dict[str, Any]) -> float | None:
    # `timeout` stays free as the name of a field, which then comes first.
    timeout: float | None = None if "timeout" in cls._meta.fields else values.pop("timeout", None)
    return timeout


def _register(cls: type[Model]) -> None:
    """Refuse a second class of one name, unless it replaces the first (same module) or is local to a function."""
    name = cls._meta.options.name
    other = Model._classes.get(name)
    if cls._meta.options.abstract or "<locals>" in cls.__qualname__:
        return
    if other is not None and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
        places = " and ".join(f"{known.__module__}.{known.__qualname__}" for known in (other, cls))
        raise DefinitionError(
            f"two models are stored as {name!r}: {places}", model=name, hint="set Meta.name in one of them"
        )
    Model._classes[name] = cls
