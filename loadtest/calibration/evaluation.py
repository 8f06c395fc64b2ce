"""How far the simulated scheduler is from what real engines did, set by set.

Two kinds of sets, both shipped with the package: closed-loop averages that others published, and
request logs of real runs. Errors are relative, per row or per request; nothing is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import msgspec

from loadtest.calibration.fitting import ErrorSummary, Fit, fit
from loadtest.calibration.replay import Timing, replay_closed, replay_open
from loadtest.calibration.request_logs import LoggedRequest, observations, read_request_log
from workers.engine.simulated.profile import EngineProfile, load_profile

_WAVES = 10
_SEED = 1
_NOT_IN_LOGS = frozenset({"e_ms_per_mtok2", "request_overhead_ms"})


@dataclass(frozen=True, slots=True)
class Errors:
    """Relative errors of one quantity; `bias` is the median with its sign (+: simulated longer)."""

    count: int
    median: float
    p90: float
    bias: float

    @classmethod
    def of(cls, simulated: Sequence[float], measured: Sequence[float]) -> Errors:
        errors = [one / other - 1.0 for one, other in zip(simulated, measured, strict=True)]
        if not errors:
            return cls(0, 0.0, 0.0, 0.0)
        sizes = ErrorSummary.of(errors)
        return cls(
            sizes.count, round(sizes.median, 4), round(sizes.p90, 4), round(median(errors), 4)
        )


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One set under one profile."""

    name: str
    how: str
    """What the profile was fitted to, and what was assumed of the measurement."""
    ttft: Errors
    tpot: Errors

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class PublishedSet(msgspec.Struct, frozen=True):
    """Closed-loop averages of one engine: rows of prompt, output, concurrency, TTFT, TPOT (ms)."""

    profile: str
    model: str
    gpu: str
    gpus: int
    engine: str
    engine_versions: list[str]
    precision: str
    length_ratio: float
    """Prompts and outputs are drawn between this share of their nominal length and all of it."""
    rows: list[tuple[int, int, int, float, float]]


class _Published(msgspec.Struct, frozen=True):
    source: str
    protocol: str
    columns: list[str]
    sets: list[PublishedSet]


class RunFacts(msgspec.Struct, frozen=True):
    """What is known of one logged run."""

    name: str
    model: str
    gpu: str
    gpus: int
    engine: str
    block_size: int
    kv_blocks: int
    kv_blocks_origin: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    note: str = ""


class _Runs(msgspec.Struct, frozen=True):
    source: str
    runs: list[RunFacts]


def data_folder() -> Path:
    """Where the measurements of others lie, with their sources."""
    return Path(str(resources.files("loadtest") / "calibration" / "data"))


def published_sets() -> list[PublishedSet]:
    """The sets of closed-loop averages."""
    text = (data_folder() / "published_rows.json").read_bytes()
    return msgspec.json.decode(text, type=_Published).sets


def logged_runs() -> list[RunFacts]:
    """The runs with a log."""
    text = (data_folder() / "logged_runs.json").read_bytes()
    return msgspec.json.decode(text, type=_Runs).runs


def evaluate_published(rows: PublishedSet, budget: int | None = None) -> Evaluated:
    """The built-in profile against the averages that it was fitted to, or with another budget."""
    profile = load_profile(rows.profile)
    if budget is not None:
        profile = profile.model_copy(update={"max_num_batched_tokens": budget})
    pairs = [(row, _closed(profile, rows.length_ratio, row)) for row in rows.rows]
    lengths = "all of one length"
    if rows.length_ratio < 1:
        lengths = f"lengths drawn from {rows.length_ratio:.0%} to 100 %"
    return Evaluated(
        name=rows.profile,
        how=f"in sample; {lengths}; token budget {profile.max_num_batched_tokens}",
        ttft=Errors.of(
            [fmean(each.ttft_ms for each in seen) for _, seen in pairs],
            [row[3] for row, _ in pairs],
        ),
        tpot=Errors.of(
            [fmean(each.tpot_ms or 0.0 for each in seen) for _, seen in pairs],
            [row[4] for row, _ in pairs],
        ),
    )


def _closed(
    profile: EngineProfile, ratio: float, row: tuple[int, int, int, float, float]
) -> list[Timing]:
    prompt_len, output_len, concurrency, _, _ = row
    rng = Random(_SEED)

    def lengths() -> tuple[int, int]:
        return (
            rng.randint(int(prompt_len * ratio), prompt_len),
            rng.randint(int(output_len * ratio), output_len),
        )

    return replay_closed(profile, lengths, concurrency, concurrency * _WAVES)


def evaluate_run(facts: RunFacts) -> list[Evaluated]:
    """Each half of a logged run under a profile fitted to the other half."""
    requests = read_request_log(data_folder() / f"{facts.name}.jsonl.gz")
    found = []
    for parity, words in ((0, "even"), (1, "odd")):
        chosen = [number % 2 == parity for number in range(len(requests))]
        fitted = fit(observations(requests, chosen), without=_NOT_IN_LOGS)
        profile = _profile_of_run(facts, fitted)
        simulated = replay_open(profile, [each.demand for each in requests])
        other = [not each for each in chosen]
        how = f"fitted to the {words} requests, told of the others; {_costs(fitted)}"
        found.append(compare(facts.name, how, _of(simulated, other), _timings(requests, other)))
    return found


def compare(
    name: str, how: str, simulated: Sequence[Timing], measured: Sequence[Timing]
) -> Evaluated:
    """Errors request by request; TPOT where there is one."""
    pairs = list(zip(simulated, measured, strict=True))
    with_tpot = [
        (one.tpot_ms, other.tpot_ms) for one, other in pairs if one.tpot_ms and other.tpot_ms
    ]
    return Evaluated(
        name=name,
        how=how,
        ttft=Errors.of([one.ttft_ms for one, _ in pairs], [other.ttft_ms for _, other in pairs]),
        tpot=Errors.of([one for one, _ in with_tpot], [other for _, other in with_tpot]),
    )


def _profile_of_run(facts: RunFacts, fitted: Fit) -> EngineProfile:
    costs = fitted.costs._asdict()
    costs["a_ms"] = max(costs["a_ms"], 1e-3)
    return EngineProfile(
        name=facts.name,
        source=f"{facts.engine}, fitted to half of its log",
        block_size=facts.block_size,
        kv_blocks=facts.kv_blocks,
        max_num_seqs=facts.max_num_seqs,
        max_num_batched_tokens=facts.max_num_batched_tokens,
        max_model_len=facts.max_model_len,
        async_scheduling=True,
        **costs,
    )


def _costs(fitted: Fit) -> str:
    costs = fitted.costs
    return (
        f"a {costs.a_ms:.2f}, b {costs.b_ms:.4f}, c {costs.c_ms_per_ktok:.4f},"
        f" d {costs.d_ms_per_ktok:.1f}"
    )


def _of(timings: Sequence[Timing], chosen: Sequence[bool]) -> list[Timing]:
    return [each for each, wanted in zip(timings, chosen, strict=True) if wanted]


def _timings(requests: Sequence[LoggedRequest], chosen: Sequence[bool]) -> list[Timing]:
    return _of([each.timing for each in requests], chosen)


def save(path: Path, command: str, facts: dict[str, Any], sets: Sequence[Evaluated]) -> None:
    """Writes the raw result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {"command": command, **facts, "sets": [each.as_dict() for each in sets]}
    path.write_text(json.dumps(body, indent=1) + "\n")


def table(sets: Sequence[Evaluated]) -> str:
    """The sets as a markdown table."""
    lines = [
        "| set | requests or rows | TTFT error, median / p90 (bias) |"
        " TPOT error, median / p90 (bias) | how |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.name} | {each.ttft.count} | {_words(each.ttft)} | {_words(each.tpot)} |"
        f" {each.how} |"
        for each in sets
    ]
    return "\n".join(lines) + "\n"


def _words(errors: Errors) -> str:
    return f"{errors.median:.1%} / {errors.p90:.1%} ({errors.bias:+.1%})"
