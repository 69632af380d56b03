"""`popoto-async check|repair|rebuild|stats`, run as people run them: what they say, and the code they end with."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from popoto_async import IndexedField, KeyField, Model, SortedField, connect
from tests.model_of_store import assert_true, snapshot
from tests.servers import Server

pytest.importorskip("typer")
pytest.importorskip("rich")

ROOT = Path(__file__).parent.parent
MODULE = """
    from popoto_async import Field, IndexedField, KeyField, Model, SortedField

    class Shop(Model):
        name: str = KeyField()
        cuisine: str | None = IndexedField()
        rating: float = SortedField(default=1.0)

    class Bare(Model):
        name: str = KeyField()

    class Abstract(Model):
        class Meta:
            abstract = True
"""


class Shop(Model):
    name: str = KeyField()
    cuisine: str | None = IndexedField()
    rating: float = SortedField(default=1.0)


Run = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def run(tmp_path: Path, clean_server: Server) -> Run:
    """Run the command in a folder with the module `shops`."""
    (tmp_path / "shops.py").write_text(dedent(MODULE))

    def command(*arguments: str, url: str | None = clean_server.url, **variables: str) -> tuple[int, str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "COLUMNS")}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", **variables}
        options = [] if url is None else ["--url", url]
        done = subprocess.run(
            [sys.executable, "-m", "popoto_async.cli", *arguments, *options],
            capture_output=True, text=True, encoding="utf-8", env=environment, cwd=tmp_path, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return command


def furnish(server: Server, namespace: str | None = None) -> None:
    async def create() -> None:
        async with connect(server.url, namespace=namespace):
            await Shop.create_many({"name": f"s{n}", "cuisine": "Thai", "rating": n} for n in range(300))

    asyncio.run(create())


def test_from_damage_to_order(run: Run, clean_server: Server) -> None:
    furnish(clean_server)
    assert run("check", "shops", "--plain")[0] == 0
    client = clean_server.client
    for n in range(30):
        client.zrem("$Sort:Shop:rating", f"Shop:s{n}")
    client.zadd("$Class:Shop", {"Shop:dead": 0})
    damaged = snapshot(clean_server)
    code, out, errors = run("check", "shops", "--plain")
    assert (code, errors) == (1, "")
    assert "Shop: 300 records, 600 entries. 31 not in order, 0 of that put right." in out
    assert re.search(r"^ +30  an entry that a record implies is not there \(missing\)$", out, re.MULTILINE)
    assert out.count("  - Shop:") == 20
    assert "  … and 11 more" in out
    assert "Bare: 0 records, 0 entries. All in order." in out
    assert "check Shop 100 %" in out
    assert "\x1b" not in out
    assert run("check", "shops:Shop", "--all", "--plain")[1].count("  - Shop:") == 31
    assert run("check", "shops:Bare", "--plain")[0] == 0
    assert run("repair", "shops", "--dry-run", "--plain")[0] == 1
    assert snapshot(clean_server) == damaged
    code, out, _ = run("repair", "shops", "--plain")
    assert code == 0
    assert "31 not in order, 31 of that put right." in out
    assert_true(clean_server, [Shop])
    assert run("check", "shops", "shops:Shop", "--plain")[:2] == (
        0, run("check", "shops", "--plain")[1],
    )  # fmt: skip


def test_what_is_left_ends_with_1(run: Run, clean_server: Server) -> None:
    furnish(clean_server)
    clean_server.client.hset("Shop:s1", "rating", "good")
    for verb in ("check", "repair", "rebuild"):
        code, out, _ = run(verb, "shops", "--plain")
        assert code == 1
        assert "Shop:s1: a stored value is none of its field's type (rating)" in out


def test_stats(run: Run, clean_server: Server) -> None:
    furnish(clean_server)
    code, out, errors = run("stats", "shops", "--plain")
    assert (code, errors) == (0, "")
    assert re.search(
        r"^Shop: 300 records, [\d.]+ KiB; 0 deadlines waiting; 2 slots in use, 0 retired$", out, re.MULTILINE
    )
    assert re.search(r"^ +Sort:rating +1 +300 +[\d.]+ KiB$", out, re.MULTILINE)
    assert re.search(r"^ +records +300 +[\d.]+ KiB$", out, re.MULTILINE)
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_a_namespace_and_redis_url(run: Run, clean_server: Server) -> None:
    furnish(clean_server, "app")
    assert "Shop: 300 records" in run("check", "shops", "--namespace", "app")[1]
    assert "Shop: 0 records" in run("check", "shops")[1]
    assert "Shop: 300 records" in run("check", "shops", "--namespace", "app", url=None, REDIS_URL=clean_server.url)[1]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["check"], 2, "Missing argument"),
        (["check", "nothing_here"], 2, "nothing_here can't be imported: ModuleNotFoundError"),
        (["check", "json"], 2, "json has no model"),
        (["check", "shops:Shp"], 2, "shops has no model 'Shp'; there are Shop, Bare"),
        (["check", "shops", "--nonsense"], 2, "No such option"),
        (["check", "shops", "--url", "redis://127.0.0.1:1/0"], 3, "no server answers"),
        (["rebuild", "shops", "--rename", "x"], 2, "--rename takes OLD=NEW"),
        (["rebuild", "shops:Shop", "--rename", "rating=cuisine"], 2, "no field any more"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], code: int, text: str) -> None:
    found = run(*arguments, **{"url": None} if "--url" in arguments else {})
    assert found[0] == code, found
    assert text in " ".join(found[2].split())
    assert "Traceback" not in found[2]
