"""The types users see, under mypy --strict and pyright strict.

Each file of `typing_cases` marks the lines that must be errors: `# E` in both checkers, `# E mypy` or `# E pyright` in
one. No other line may be one, so the files named ok_* must pass whole.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CASES = sorted((Path(__file__).parent / "typing_cases").glob("*.py"))
Lines = dict[str, set[int]]
"""File → the lines a checker complains about."""


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.stdout


def mypy(folder: Path) -> Lines:
    settings = folder / "mypy.ini"
    settings.write_text("[mypy]\nstrict = true\npython_version = 3.11\ndisable_error_code = unused-coroutine\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "popoto_async", *map(str, CASES)]
    found: Lines = {}
    for path, line in re.findall(r"^(.+?):(\d+): error:", run(command, ROOT), re.MULTILINE):
        found.setdefault(path, set()).add(int(line))
    return {Path(path).name: lines for path, lines in found.items() if "typing_cases" in path}


def pyright(folder: Path) -> Lines:
    root = os.path.relpath(ROOT, folder)  # pyright ignores absolute paths
    settings = {
        "include": [f"{root}/tests/typing_cases"],
        "extraPaths": [root],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
        "reportPrivateUsage": False,
        "reportUnusedCoroutine": False,
        "reportUnusedExpression": False,
        "reportUnusedVariable": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    answer = json.loads(run(command, folder))
    assert answer["summary"]["filesAnalyzed"] == len(CASES)
    found: Lines = {}
    for item in answer["generalDiagnostics"]:
        if item["severity"] == "error":
            found.setdefault(Path(item["file"]).name, set()).add(item["range"]["start"]["line"] + 1)
    return found


@pytest.fixture(scope="module", params=[mypy, pyright])
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Lines]:
    checker = request.param.__name__
    return checker, request.param(tmp_path_factory.mktemp(checker))


def expected(case: Path, checker: str) -> set[int]:
    mark = re.compile(rf"  # E(?! (?:mypy|pyright)\b)\b|  # E {checker}\b")
    return {number for number, line in enumerate(case.read_text().splitlines(), 1) if mark.search(line)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_errors_are_exactly_the_marked_lines(checked: tuple[str, Lines], case: Path) -> None:
    checker, found = checked
    assert found.get(case.name, set()) == expected(case, checker)


@pytest.mark.parametrize("case", [case for case in CASES if case.stem.startswith("ok_")], ids=lambda case: case.stem)
def test_what_type_checks_also_runs(case: Path) -> None:
    command = [sys.executable, "-W", "error", str(case)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
