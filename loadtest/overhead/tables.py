"""What was found, as a record and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

import msgspec

from loadtest.overhead.measuring import Costs, Latency, Streams
from loadtest.overhead.processes import Scaling, scaling_lines
from loadtest.results import Machine

_COLUMNS = (
    ("short_us", "200 B, µs"),
    ("seen_us", "8 kB seen, µs"),
    ("new_us", "8 kB new, µs"),
    ("new_us_per_kb", "new, µs/kB"),
    ("token_us", "token, µs"),
)


class Found(msgspec.Struct, kw_only=True):
    """All that was measured of one system."""

    system: str
    version: str
    costs: list[Costs] = []
    latency: Latency | None = None
    streams: Streams | None = None
    memory_mib: list[float] = []


class Record(msgspec.Struct, kw_only=True):
    """One measurement of several systems."""

    told: str
    """The command."""
    at: str
    machine: Machine
    note: str
    direct: Latency | None
    """Without a router."""
    found: list[Found]
    scaling: Scaling | None = None
    """Several processes beside one."""


def medians(runs: Sequence[Costs]) -> dict[str, float]:
    """Of each number over the runs."""
    return {name: median(getattr(run, name) for run in runs) for name, _ in _COLUMNS}


def table(record: Record) -> str:
    """Everything as Markdown."""
    measured = [one for one in record.found if one.costs]
    lines = _table(
        ["system", *(title for _, title in _COLUMNS)],
        (_row(f"{one.system} {one.version}", medians(one.costs)) for one in measured),
    )
    lines += ["", "CPU time of the router's processes; medians over the runs.", ""]
    lines += _latencies(record)
    lines += _streams(record.found)
    lines += scaling_lines(record.scaling)
    lines += [
        f"- {one.system}: resident {', '.join(f'{size:.0f}' for size in one.memory_mib)} MiB"
        for one in record.found
        if one.memory_mib
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, numbers: Mapping[str, float]) -> list[str]:
    return [name, *(f"{numbers[key]:.1f}" for key, _ in _COLUMNS)]


def _latencies(record: Record) -> list[str]:
    direct = record.direct
    rows = [
        [
            one.system,
            f"{one.latency.p50_ms - direct.p50_ms:+.2f}",
            f"{one.latency.p99_ms - direct.p99_ms:+.2f}",
            f"{one.latency.gap_p99_ms - direct.gap_p99_ms:+.2f}",
        ]
        for one in record.found
        if one.latency is not None and direct is not None
    ]
    if not rows:
        return []
    return [*_table(["added at 300/s", "p50 ms", "p99 ms", "token gap p99 ms"], rows), ""]


def _streams(found: Iterable[Found]) -> list[str]:
    rows = [
        [
            one.system,
            str(one.streams.streams),
            str(one.streams.dropped),
            f"{one.streams.token_us:.1f}",
            "" if one.streams.lag_ms_p99 is None else f"{one.streams.lag_ms_p99:.1f}",
        ]
        for one in found
        if one.streams is not None
    ]
    if not rows:
        return []
    return [*_table(["system", "streams", "dropped", "token, µs", "loop lag p99 ms"], rows), ""]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
