"""Records that refer to one another, in plain Python: what each verb makes of the rows, and which events it adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from popoto_async import AlreadyExists, Model, ProtectedRecord, RecordGone, UniqueViolation
from tests.model_of_store import Rows, Values, claims

Relations = Mapping[tuple[type[Model], str], tuple[type[Model], str]]
"""(model, field) → the model it refers to, and what becomes of it: SET_NULL, CASCADE or PROTECT."""


def key_of(model: type[Model], values: Values) -> str:
    parts = [str(values[field.name]).replace(":", "%3A") for field in model._meta.keys]
    return ":".join([model.__name__, *parts])


class World:
    """The rows of some models, and the (operation, key) of every write."""

    def __init__(self, models: Sequence[type[Model]], relations: Relations) -> None:
        self.rows: dict[type[Model], Rows] = {model: {} for model in models}
        self.relations = relations
        self.events: list[tuple[str, str]] = []

    def tell(self, operation: str, key: str) -> None:
        self.events.append((operation, key))

    def check_claims(self, model: type[Model], row: Values, free: set[str]) -> None:
        own = set(claims(model, row))
        if any(own & set(claims(model, other)) for key, other in self.rows[model].items() if key not in free):
            raise UniqueViolation("taken")

    def insert(self, model: type[Model], row: Values) -> None:
        key = key_of(model, row)
        self.check_claims(model, row, {key})
        self.rows[model][key] = dict(row)
        self.tell("create", key)

    def update(self, model: type[Model], key: str, values: Values, *, onto: bool = True) -> None:
        """`onto`: whether a changed key may overwrite another record."""
        if key not in self.rows[model]:
            raise RecordGone(key)
        row = {**self.rows[model][key], **values}
        new = key_of(model, row)
        if new != key and new in self.rows[model] and not onto:
            raise AlreadyExists(new)
        self.check_claims(model, row, {key, new})
        del self.rows[model][key]
        self.rows[model][new] = row
        self.tell("update", new)
        if new != key:
            for owner, other, name in self.referring(model, key):
                moved = {**self.rows[owner][other], name: new}
                self.check_claims(owner, moved, {other})
                self.rows[owner][other] = moved
                self.tell("update", other)

    def referring(self, model: type[Model], key: str) -> list[tuple[type[Model], str, str]]:
        return [
            (owner, other, name)
            for (owner, name), (target, _) in self.relations.items()
            if target is model
            for other, row in self.rows[owner].items()
            if row[name] == key
        ]

    def drop(self, model: type[Model], key: str) -> bool:
        if key not in self.rows[model]:
            return False
        doomed = [(model, key)]
        for gone in doomed:
            for owner, other, name in self.referring(*gone):
                act = self.relations[owner, name][1]
                if act == "PROTECT" and (owner, other) != gone:
                    raise ProtectedRecord(other)
                if act == "CASCADE" and (owner, other) not in doomed:
                    doomed.append((owner, other))
        for gone in doomed:
            for owner, other, name in self.referring(*gone):
                if self.relations[owner, name][1] == "SET_NULL":
                    self.rows[owner][other][name] = None
                    if (owner, other) not in doomed:
                        self.tell("update", other)
        for owner, other in doomed:
            del self.rows[owner][other]
            self.tell("delete", other)
        return True
