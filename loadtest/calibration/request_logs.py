"""Per-request logs of a real engine: read, turned into observations, and into demands to replay.

A log has no steps, but each request tells how long it took to make its tokens after the first one,
and it made exactly one a step. What else those steps held follows from the other requests'
timestamps. So each request gives one row of the step model. Assumed, as the log does not say
otherwise: no prefix was shared, prompts were computed evenly between being scheduled and the first
token, and tokens came evenly between the first and the last.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.calibration.fitting import Observation, Work
from loadtest.calibration.replay import Demand, Timing
from rhizome.errors import TraceError

Vector = NDArray[np.float64]

_GRID_S = 0.02
_FIELDS = (
    "arrival_time",
    "queued_ts",
    "scheduled_ts",
    "first_token_ts",
    "last_token_ts",
    "input_toks",
    "output_toks",
)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One line; all times in seconds since the first arrival, on the engine's clock."""

    arrival_s: float
    scheduled_s: float
    first_s: float
    last_s: float
    prompt_len: int
    output_len: int

    @property
    def demand(self) -> Demand:
        return Demand(self.arrival_s, self.prompt_len, self.output_len)

    @property
    def timing(self) -> Timing:
        more = self.output_len - 1
        return Timing(
            ttft_ms=(self.first_s - self.arrival_s) * 1e3,
            tpot_ms=(self.last_s - self.first_s) * 1e3 / more if more else None,
        )


def read_request_log(path: Path) -> list[LoggedRequest]:
    """Reads a gzipped JSON-lines log in vLLM's field names; raises `TraceError` with the line.

    Arrivals are on the wall clock, the rest is monotonic: the two are joined where a request
    entered the engine fastest after its arrival.
    """
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                rows.append([float(entry[name]) for name in _FIELDS])
            except (ValueError, KeyError, TypeError) as error:
                raise TraceError(f"{path.name}, line {number}: {error!r}") from error
    if not rows:
        raise TraceError(f"{path.name} has no requests")
    table = np.array(rows)
    offset_s = float(np.min(table[:, 1] - table[:, 0]))
    table[:, 0] += offset_s
    origin_s = float(np.min(table[:, 0]))
    table[:, :5] -= origin_s
    return [
        LoggedRequest(row[0], row[2], row[3], row[4], int(row[5]), int(row[6]))
        for row in sorted(table.tolist())
    ]


def observations(requests: Sequence[LoggedRequest], chosen: Sequence[bool]) -> list[Observation]:
    """One row for each chosen request of at least two tokens, from first token to last."""
    end_s = max(each.last_s for each in requests)
    grid: Vector = np.arange(0.0, end_s + _GRID_S, _GRID_S, dtype=np.float64)
    sequences, context = _state(requests, grid)
    pace = _pace(requests, grid)
    found = []
    for each, wanted in zip(requests, chosen, strict=True):
        steps = each.output_len - 1
        if not wanted or steps < 1 or each.last_s <= each.first_s:
            continue
        inside = (grid >= each.first_s) & (grid <= each.last_s)
        weight = pace[inside]
        total = float(weight.sum())
        if not total:
            continue
        work = Work(
            steps=steps,
            sequences=steps * float(weight @ sequences[inside]) / total,
            context_ktok=steps * float(weight @ context[inside]) / total / 1e3,
            prefill_ktok=_prefill_between(requests, each) / 1e3,
        )
        found.append(Observation("request", work, (each.last_s - each.first_s) * 1e3))
    return found


def _state(requests: Sequence[LoggedRequest], grid: Vector) -> tuple[Vector, Vector]:
    """Decoding sequences and the sum of their contexts, at each point of the grid."""
    sequences, context = np.zeros_like(grid), np.zeros_like(grid)
    for each in requests:
        inside = (grid >= each.first_s) & (grid <= each.last_s)
        length_s = max(each.last_s - each.first_s, 1e-9)
        made = 1 + (grid[inside] - each.first_s) / length_s * (each.output_len - 1)
        sequences[inside] += 1
        context[inside] += each.prompt_len + made
    return sequences, context


def _pace(requests: Sequence[LoggedRequest], grid: Vector) -> Vector:
    """Steps a second, as the mean over the requests that decode at each point of the grid."""
    total, count = np.zeros_like(grid), np.zeros_like(grid)
    for each in requests:
        if each.last_s <= each.first_s:
            continue
        inside = (grid >= each.first_s) & (grid <= each.last_s)
        total[inside] += (each.output_len - 1) / (each.last_s - each.first_s)
        count[inside] += 1
    return np.where(count > 0, total / np.maximum(count, 1), 0.0)


def _prefill_between(requests: Sequence[LoggedRequest], span: LoggedRequest) -> float:
    """Prompt tokens of others that were computed while this one decoded."""
    tokens = 0.0
    for each in requests:
        length_s = max(each.first_s - each.scheduled_s, 1e-9)
        shared_s = min(each.first_s, span.last_s) - max(each.scheduled_s, span.first_s)
        if each is not span and shared_s > 0:
            tokens += each.prompt_len * min(1.0, shared_s / length_s)
    return tokens
