"""Command line: `python -m benchmarks --short`. Exit code 1: a wrong answer, a crash, or ours could not take part."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contest import Contest
from benchmarks.outcome import Result
from benchmarks.report import LEGEND, as_json, closing, table
from benchmarks.rows import PEERS, ROW_NAMES, ROWS, Row
from benchmarks.servers import NotEmpty, serve
from benchmarks.standing import time_imports, weigh


def names_of(allowed: Sequence[str]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(filter(None, text.split(",")))
        unknown = set(names) - set(allowed)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {', '.join(allowed)}")
        return names

    return parse


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--server", default="embedded", help="embedded (default), testcontainer[:IMAGE], or the URL of an empty server"
    )
    parser.add_argument("--peers", type=names_of(PEERS), default=PEERS, help=f"{','.join(PEERS)} (default: all)")
    parser.add_argument("--short", action="store_true", help="smaller sizes, fewer rounds: for CI")
    parser.add_argument("--only", type=names_of(ROW_NAMES), default=ROW_NAMES, help=",".join(ROW_NAMES))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def measure(contest: Contest, row: Row, *, short: bool, contestants: Sequence[str]) -> Result:
    size = row.size(short)
    if size is None:
        return Result(row, None, [])
    if row.action == "memory":
        contest.stored.clear()
        return Result(row, size, weigh(contest.server, row, size, contestants))
    if row.action == "import":
        return Result(row, size, time_imports(contest.server, size, contestants))
    return Result(row, size, contest.hold(row, size, contestants))


def circumstances(server: str, kind: str, *, short: bool) -> dict[str, Any]:
    return {
        "server": server,
        "server_kind": kind,
        "short": short,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
    }


def versions(results: Iterable[Result]) -> dict[str, str]:
    return {
        name: version
        for result in results
        for entry in result.entries
        for name, version in sorted(entry.versions.items())
    }


def run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    results: list[Result] = []
    with serve(options.server) as server:
        about = circumstances(server.version(), server.kind, short=options.short)
        print(" · ".join(str(value) for key, value in about.items() if key != "short"), end="\n\n", flush=True)
        contest = Contest(server)
        for row in ROWS:
            if row.name in options.only:
                contestants = row.contestants(options.peers)
                results.append(measure(contest, row, short=options.short, contestants=contestants))
                print(table(results[-1]), end="\n\n", flush=True)
    about |= {"versions": versions(results), "seconds": round(time.monotonic() - started, 1)}
    print(LEGEND)
    print(", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    print(f"{closing(results)}; {about['seconds']:.0f} s", end="; sizes of --short\n" if options.short else "\n")
    errors = [error for result in results for error in result.errors()]
    if options.json:
        report = {**about, "errors": errors, "rows": [as_json(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def main() -> int:
    try:
        return run(arguments())
    except (NotEmpty, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
