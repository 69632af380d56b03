"""A change of one record, between its planning and its outcome. Pure: whoever sends it tells it what came back.

Each change can be planned again: under another slot table, or on the values that somebody else stored meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from popoto_async.errors import ModelException, PopotoError, StaleRecord, ValidationError, shorten
from popoto_async.fields.relationship import relations
from popoto_async.outcomes import failure
from popoto_async.plan import WAITED, Guard, Operation, Outcome, Test
from popoto_async.planning.read import plan_guard, plan_matching
from popoto_async.planning.relations import plan_erase, with_references
from popoto_async.planning.write import Addition, plan_delete, plan_insert, plan_update
from popoto_async.records import MOVING, State, encode, is_moving, stored_texts, stored_values
from popoto_async.schema import Binding, Schema

MOST_ATTEMPTS = 50
"""Times that a save is planned on what others have stored meanwhile: all that is asked after it has to wait for it."""

STATE = ("_key", "_stored", "_version", "_stub")
"""What makes an instance a stored one."""


def forget(schema: Schema, state: State) -> State:
    """Make an instance a new one; what it knew of what is stored. What a stub had not loaded is null."""
    known = {name: state.pop(name) for name in STATE if name in state}
    if "_stub" in known:
        state.update({name: None for name in schema.fields if name not in state})
    return known


class Change:
    """What every change of a record has: class, the instance's state, the key it is about, the value it comes to."""

    begun = False  # whether a part of it is done, so that the rest has to follow
    stamps: Mapping[str, Any] = MappingProxyType({})  # what fields that follow the clock are to have
    before: Mapping[str, Any] = stamps  # values of the instance that it may be given others for, as they were

    def __init__(self, schema: Schema, state: State, value: Any = True) -> None:
        self.schema, self.state, self.value = schema, state, value
        self.key: str = state.get("_key") or ""
        self.sent = state
        self.waits = is_moving(state)

    def plan(self, binding: Binding) -> Operation:
        """The operation under a slot table."""
        raise NotImplementedError

    def overtaken(self, outcome: Outcome) -> Schema:
        """Be planned again on what this tells. What it stores stays, whatever was assigned to the instance since."""
        if outcome is WAITED:
            self.key = self.state.get("_key") or self.key
        return self.schema

    def settle(self, outcome: Outcome) -> None:
        """Bring the instance to what is stored now that the change is done."""
        raise NotImplementedError

    def conclude(self, outcome: Outcome, binding: Binding) -> Any:
        """The value the change comes to, or the error its outcome stands for."""
        if outcome[0] == b"ok":
            self.settle(outcome)
            return self.value
        self.withdraw()
        raise self.failure(outcome, binding)

    def failure(self, outcome: Outcome, binding: Binding) -> PopotoError:
        """The error that an outcome stands for."""
        return failure(self.schema, self.key, self.state, outcome, binding)

    def withdraw(self) -> None:
        """The change was not made."""

    def _stamp(self, now: float, inserting: bool) -> None:
        """Send this save's time for the fields that follow the clock. The instance has it when it is stored."""
        state, when = self.state, datetime.fromtimestamp(now, UTC)
        self.before = {field.name: state.get(field.name) for field in self.schema.stamped}
        stamped = {field.name: field.stamp(state.get(field.name), when, inserting) for field in self.schema.stamped}
        self.stamps = {name: value for name, value in stamped.items() if value is not self.before[name]}
        self.sent = {**state, **self.stamps}

    def _show_stamps(self) -> None:
        """Give the instance the times that are stored now, but where somebody assigned another one since."""
        state, shown = self.state, self.state.get("_shown", {})
        for name, stamp in self.stamps.items():
            if state.get(name) is shown.get(name) or self._is_untouched(name):
                state[name] = stamp
        state["_shown"] = self.stamps

    def _is_untouched(self, name: str) -> bool:
        """Whether a field's value is the one that it had before this change, or the stored one: nobody assigned it."""
        value = self.state.get(name)
        if value is self.before[name]:
            return True
        stored = stored_texts(self.schema, self.state).get(name)
        return value is not None and self.schema.fields[name].checked(value) == stored

    def _remember(self, stored: Mapping[str, bytes | None] | list[Any], outcome: Outcome) -> None:
        state = self.state
        if self.stamps:
            self._show_stamps()
        state["_key"], state["_stored"] = self.key, stored
        for name in self.schema.beside:
            self.schema.fields[name].settle(state.get(name))
        if "_corrupt" in state:
            corrupt = {name: raw for name, raw in state.pop("_corrupt").items() if name not in state}
            if corrupt:
                state["_corrupt"] = corrupt
        if len(outcome) > 1 and outcome[1]:
            state["_version"] = outcome[1].decode()


def _require_known(schema: Schema, if_exists: Any) -> None:
    if if_exists not in ("overwrite", "error"):
        raise ValidationError(
            f'{schema.model}: if_exists is "overwrite" or "error", not {shorten(if_exists)}',
            model=schema.model,
            value=if_exists,
        )


class Insert(Change):
    """A new record, stored whole."""

    found: str | None = None  # the unique index whose owner is an answer, too

    def __init__(
        self,
        schema: Schema,
        state: State,
        now: float,
        *,
        value: Any = True,
        if_exists: str = "overwrite",
        timing: Mapping[str, Any],
    ) -> None:
        super().__init__(schema, state, value)
        _require_known(schema, if_exists)
        if schema.stamped:
            self._stamp(now, inserting=True)
        self.encoded, self.values = encode(schema, self.sent), self.sent
        self.if_exists, self.timing = if_exists, timing

    def plan(self, binding: Binding) -> Operation:
        """Every field and every entry."""
        self.key = binding.record_key(self.values)
        return plan_insert(
            binding, self.key, self.values, self.encoded, if_exists=self.if_exists, timing=self.timing, found=self.found
        )

    def overtaken(self, outcome: Outcome) -> Schema:
        """Key and entries are those of the texts that will be stored."""
        self.values = self._to_store()
        return self.schema

    def failure(self, outcome: Outcome, binding: Binding) -> PopotoError:
        """The error that an outcome stands for, of the values that were to be stored."""
        return failure(self.schema, self.key, self._to_store(), outcome, binding)

    def _to_store(self) -> State:
        return stored_values(self.schema, dict(zip(self.schema.fields, self.encoded, strict=True)))

    def settle(self, outcome: Outcome) -> None:
        """The instance is a stored one."""
        self._remember(self.encoded, outcome)


class Update(Change):
    """The changed fields of a stored record, of `names` only where given; and a number to add on the server."""

    attempts = 0

    def __init__(
        self,
        schema: Schema,
        state: State,
        now: float,
        *,
        names: frozenset[str] | None = None,
        if_exists: str = "overwrite",
        timing: Mapping[str, Any],
        add: Addition | None = None,
    ) -> None:
        super().__init__(schema, state)
        _require_known(schema, if_exists)
        if schema.stamped:
            self._stamp(now, inserting=False)
            names = names if names is None else names | self.stamps.keys()
        encoded = dict(zip(schema.fields, encode(schema, self.sent, names), strict=True))
        stored = stored_texts(schema, state)
        partial = "_stub" in state  # of which what was assigned is known to be different
        under_way = state.get("_under_way", {})  # which may be stored before this is
        self.changed = {
            name: encoded.get(name)
            for name in schema.fields
            if (names is None or name in names)
            and name in self.sent
            and (encoded.get(name) != stored.get(name) or (partial and name not in stored) or name in under_way)
        }
        self.origin, self.version = self.key, state.get("_version")
        self.if_exists, self.timing, self.add = if_exists, timing, add
        if add is not None:
            self.before = {**self.before, add.field: state.get(add.field)}
        self.moves = any(field.name in self.changed for field in schema.keys)
        for field in schema.keys if self.moves else ():
            if field.name not in state:
                raise field.corrupt(self.key, stored[field.name])
        if self.moves and schema.options.immutable_key:
            raise ModelException(
                f"{schema.model}: the key of {self.key!r} can't be changed (Meta.immutable_key)",
                model=schema.model,
                key=self.key,
                hint="create a new record and delete this one",
            )
        self.base, self.values = stored, {name: self.sent.get(name) for name in schema.fields}
        # What is not written counts as stored, not as the instance has it; which may be what can't be stored at all.
        kept = {
            name: stored.get(name)
            for name, text in encoded.items()
            if name not in self.changed
            and (text != stored.get(name) or (text is None and self.values[name] is not None))
        }
        if kept:
            self.values.update(stored_values(schema, kept))
        self._under_way: dict[str, int] = state.setdefault("_under_way", {})
        self._counted = (*self.changed, MOVING) if self.moves or schema.options.versioned else tuple(self.changed)
        for name in self._counted:
            self._under_way[name] = self._under_way.get(name, 0) + 1

    def plan(self, binding: Binding) -> Operation:
        """The changed fields, the entries they touch, and the move to another key where the key changed."""
        if self.moves:
            self.key = binding.record_key(self.values)
        update = plan_update(
            binding,
            self.key,
            self.origin,
            self.values,
            self.changed,
            self.base,
            if_exists=self.if_exists,
            version=self.version,
            timing=self.timing,
            add=self.add,
        )
        return with_references(binding, update) if self.schema.referrers and self.key != self.origin else update

    def overtaken(self, outcome: Outcome) -> Schema:
        """Key and entries are those of the texts that will be stored then, on what somebody else stored."""
        if outcome[0] == b"moved":
            self.attempts += 1
            if self.attempts == MOST_ATTEMPTS:
                raise StaleRecord(
                    f"{self.schema.model}: {self.origin!r} was changed by others at each of {MOST_ATTEMPTS} attempts"
                    " to save it; nothing was saved",
                    model=self.schema.model,
                    key=self.origin,
                    hint="save it again when fewer write to it at once",
                )
            row = zip(self.schema.fields, outcome[1], strict=False)
            self.base = {name: text for name, text in row if text is not None}
        elif outcome is WAITED and self.state.get("_key") is not None:
            self.key = self.origin = self.state["_key"]
            self.base, self.version = stored_texts(self.schema, self.state), self.state.get("_version")
        self.values = self._to_store()
        return self.schema

    def _to_store(self) -> State:
        return stored_values(self.schema, {**dict.fromkeys(self.schema.fields), **self.base, **self.changed})

    def failure(self, outcome: Outcome, binding: Binding) -> PopotoError:
        """The error that an outcome stands for; of the record itself, under the key where it was looked for."""
        key = self.origin if outcome[0] in (b"gone", b"stale") else self.key
        return failure(self.schema, key, self._to_store(), outcome, binding)

    def withdraw(self) -> None:
        """The change was not made: nothing of it is under way any more."""
        self._arrive()

    def _arrive(self) -> None:
        counts, names, self._counted = self._under_way, self._counted, ()
        for name in names:
            counts[name] -= 1
            if not counts[name]:
                del counts[name]
        if not counts and self.state.get("_under_way") is counts:
            del self.state["_under_way"]

    def settle(self, outcome: Outcome) -> None:
        """The instance knows what was stored, the sum included."""
        self._arrive()
        # Another verb may have made the instance a new one since.
        stored = {**(stored_texts(self.schema, self.state) or self.base), **self.changed}
        if self.schema.referrers and self.key != self.origin:
            self._follow(stored)
            if outcome[3]:
                self.state["_moved"] = self.origin
        if self.add:
            name = self.add.field
            untouched = self._is_untouched(name)
            stored[name] = outcome[2]
            self.value = self.schema.fields[name].codec.decode(outcome[2])
            if untouched:
                self.state[name] = self.value
        self._remember(stored, outcome)

    def _follow(self, stored: dict[str, bytes | None]) -> None:
        """References of the record to itself have followed its key."""
        before, after = self.origin.encode(), self.key.encode()
        for field in relations(self.schema.fields):
            if stored.get(field.name) == before and field.target._meta is self.schema:
                stored[field.name] = after
                value = self.state.get(field.name)
                if value is not None and value.__dict__ is not self.state and field.key_of(value) == self.origin:
                    self.state[field.name] = field.codec.decode(after)


class Delete(Change):
    """The end of a record."""

    _cursor: bytes | None = None

    def plan(self, binding: Binding) -> Operation:
        """By its key alone."""
        self.key = self.key or binding.record_key(self.state)
        if self.schema.referrers:
            return plan_erase(binding, self.key, self._cursor)
        return plan_delete(binding, self.key)

    def conclude(self, outcome: Outcome, binding: Binding) -> Any:
        """Whether the record existed; None where only a part is done, and it has to be sent again."""
        if outcome[0] == b"more":
            self._cursor, self.begun = outcome[1], True
            return None
        return super().conclude(outcome, binding)

    def settle(self, outcome: Outcome) -> None:
        """The instance is a new one again."""
        self.value = bool(outcome[1])
        forget(self.schema, self.state)


class Guarding:
    """A test that many changes depend on, planned once for all of them."""

    def __init__(self, test: Test) -> None:
        self._test = test
        self._planned: tuple[Binding, Guard] | None = None

    def under(self, binding: Binding) -> Guard:
        """The test as a condition of changes that are planned under this binding."""
        if self._planned is None or self._planned[0] is not binding:
            self._planned = binding, plan_guard(binding, self._test)
        return self._planned[1]


class Matching:
    """A change that is made only if the record satisfies a test at that moment; whether it was, which `made` counts."""

    def __init__(self, change: Change, guarding: Guarding, made: Callable[[], None]) -> None:
        self.schema = change.schema
        self._change, self._guarding, self._made = change, guarding, made
        self.waits = change.waits
        self.overtaken, self.withdraw = change.overtaken, change.withdraw

    def plan(self, binding: Binding) -> Operation:
        """The change, behind the test of the record as it is stored; what has begun is finished without it."""
        if self._change.begun:
            return self._change.plan(binding)
        origin = self._change.state.get("_key") or self._change.key
        return plan_matching(binding, self._guarding.under(binding), origin, self._change.plan(binding))

    def conclude(self, outcome: Outcome, binding: Binding) -> bool | None:
        """False where the record doesn't match any more, or is gone; None where it has to be sent again."""
        if outcome[0] in (b"unmatched", b"gone"):
            self._change.withdraw()
            return False
        done: bool | None = self._change.conclude(outcome, binding)
        if done:
            self._made()
        return done
