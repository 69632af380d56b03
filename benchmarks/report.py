"""The table for people and the JSON for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.measure import Summary
from benchmarks.outcome import ABSENT, Entry, Result, Verdict
from benchmarks.rows import BOUND

HEADINGS = (
    "",
    "median",
    "quartiles",
    "× ours",
    "reads",
    "trips",
    "commands",
    "sent",
    "sockets",
    "stall",
    "client",
    "server",
)

LEGEND = """\
median, quartiles   of the rounds, per operation; the contestants take turns, one more round before them warms up
× ours              the contestant's median divided by ours: above 1 it is slower, or larger
reads               what arrived at the server, per operation (INFO stats, total_reads_processed): the round trips of
                    small requests; a request above 16 KiB is several reads
trips               round trips per operation as the client counts them (ours: db.stats(); floor: by hand)
commands            per operation, those inside scripts and MULTI included (INFO commandstats)
sent                bytes per operation that the server sent (INFO stats, total_net_output_bytes)
sockets             connections of the contestant after a round (CLIENT LIST)
stall               longest delay of a heartbeat every 1 ms in the event loop, median of the rounds (largest of all)
client, server      CPU time per operation (process time of the worker; INFO cpu)"""

FIGURES = ("seconds", "bytes", "reads", "trips", "commands", "sent", "sockets", "stall", "client_cpu", "server_cpu")


def seconds(value: float) -> str:
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.3g} ms" if value < 0.9995 else f"{value:.2f} s"


def number(value: float) -> str:
    if value < 0.0005:
        return "0"
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def of_bytes(value: float) -> str:
    return f"{value:.0f} B"


FORMATS = {
    "seconds": seconds,
    "stall": seconds,
    "client_cpu": seconds,
    "server_cpu": seconds,
    "bytes": of_bytes,
    "sent": of_bytes,
}


def _cells(result: Result, entry: Entry) -> list[str]:
    form = FORMATS[result.main_figure]
    main = entry.summary(result.main_figure)
    assert main is not None
    ratio = result.ratio_to_ours(entry.contestant)
    stall = entry.summary("stall")

    def cell(figure: str) -> str:
        summary = entry.summary(figure)
        return FORMATS.get(figure, number)(summary.median) if summary else "-"

    return [
        entry.contestant,
        form(main.median),
        f"{form(main.lower)} … {form(main.upper)}" if len(entry.rounds) > 1 else "-",
        "-" if ratio is None else f"{ratio:.2f}",
        cell("reads"),
        cell("trips"),
        cell("commands"),
        cell("sent"),
        cell("sockets"),
        f"{seconds(stall.median)} ({seconds(stall.largest)})" if stall else "-",
        cell("client_cpu"),
        cell("server_cpu"),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _verdict(verdict: Verdict) -> str:
    word = {None: "not measured", True: "met", False: "NOT MET"}[verdict.met]
    if verdict.value is None:
        return f"  {word:<12}  {verdict.target.text}"
    ratio = verdict.target.against or verdict.target.figure in {"memory_growth", "reads", "sockets", "trips"}
    shown = f"{verdict.value:.3g}" if ratio else FORMATS[verdict.target.figure](verdict.value)
    against = f" × {verdict.target.against}" if verdict.target.against else ""
    return f"  {word:<12}  {verdict.target.text}: {shown}{against}"


def table(result: Result) -> str:
    row, size = result.row, result.size
    if size is None:
        later = ", ".join(target.text for target in row.targets)
        return f"{row.work}\n  {ABSENT:<12}  {later}"
    rounds = max((len(entry.rounds) for entry in result.entries), default=0)
    lines = [f"{row.work} - per {row.unit}; {size.ops:,} × {rounds} rounds; floor: {row.floor}"]
    measured = [entry for entry in result.entries if not entry.problem]
    if BOUND in [entry.contestant for entry in measured]:
        lines[0] += f"; {BOUND}: {row.bound}"
    if measured:
        lines += _aligned([HEADINGS, *(_cells(result, entry) for entry in measured)])
    lines += [f"  {e.contestant}: {e.problem}: {e.reason}" for e in result.entries if e.problem]
    lines += [f"  {e.contestant}: {e.note}" for e in measured if e.note]
    lines += [_verdict(verdict) for verdict in result.verdicts()]
    return "\n".join(lines)


def closing(results: Iterable[Result]) -> str:
    verdicts = [verdict.met for result in results if result.size for verdict in result.verdicts()]
    met, missed, unknown = (verdicts.count(kind) for kind in (True, False, None))
    return f"targets: {met} met, {missed} not met, {unknown} not measured"


def _entry(result: Result, entry: Entry) -> dict[str, Any]:
    summaries: dict[str, Summary | None] = {figure: entry.summary(figure) for figure in FIGURES}
    return {
        "contestant": entry.contestant,
        "versions": entry.versions,
        "note": entry.note,
        "problem": entry.problem,
        "reason": entry.reason,
        "ratio_to_ours": result.ratio_to_ours(entry.contestant),
        "figures": {figure: asdict(summary) for figure, summary in summaries.items() if summary},
        "extra": entry.extra,
        "rounds": entry.rounds,
    }


def as_json(result: Result) -> dict[str, Any]:
    """One row for the file: sizes, every contestant with its rounds, every promise with what was measured."""
    return {
        "row": result.row.name,
        "work": result.row.work,
        "unit": result.row.unit,
        "absent": result.size is None,
        "size": asdict(result.size) if result.size else None,
        "contestants": [_entry(result, entry) for entry in result.entries],
        "targets": [{**asdict(v.target), "measured": v.value, "met": v.met} for v in result.verdicts()],
    }
