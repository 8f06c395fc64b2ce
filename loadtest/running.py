"""One run from plan to result, and several of them at rising loads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtest.client.processes import Measured, OnProgress, run_load
from loadtest.client.target import Target, TargetFacts, tokenizer_directory
from loadtest.plan import Plan
from loadtest.prompts import PromptWriter
from loadtest.results import Knee, RunResult, SweepResult, Told, result_of
from loadtest.workloads.catalog import Choice, open_workload
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape
from rhizome.clock import Clock
from rhizome.errors import SettingsError


@dataclass(frozen=True)
class Aim:
    """What to load with what, before anything is known of the target."""

    url: str
    model: str | None
    tokenizer: Path | None
    choice: Choice
    shape: Shape
    api: Api | None = None
    """None for the workload's own."""


async def prepare(aim: Aim, options: Plan) -> tuple[Plan, TargetFacts]:
    """Checks target, workload and tokenizer; the plan with what was found filled in.

    `options` gives all that is not in the aim. Raises `StartError` with the cause.
    """
    workload = open_workload(aim.choice, aim.shape)
    target = Target(aim.url, options.key_of(""))
    facts = await target.facts(aim.model)
    directory = tokenizer_directory(aim.tokenizer, facts)
    writer = PromptWriter.open(directory)
    api = aim.api or workload.api
    if options.real_answers and api is not Api.CHAT:
        raise SettingsError("real answers can be fed back in chats only", advice="Use --api chat.")
    if api is Api.TEXT and workload.block_tokens is not None:
        writer.check_blocks(workload.block_tokens)
    await target.check_tokenizer(facts.model, writer)
    plan = msgspec.structs.replace(
        options,
        url=facts.url,
        model=facts.model,
        tokenizer=str(directory),
        choice=aim.choice,
        shape=aim.shape,
        api=api,
    )
    return plan, facts


@dataclass(frozen=True)
class Watching:
    """Who looks on, and who may end it."""

    on_progress: OnProgress = lambda _: None
    stop: asyncio.Event | None = None


async def run_once(
    plan: Plan, facts: TargetFacts, told: Told, clock: Clock, watching: Watching
) -> tuple[RunResult, Measured]:
    """One run and its records; a stopped one gives what is known, marked as partial."""
    workload = open_workload(plan.choice, plan.shape)
    measured = await run_load(plan, clock, on_progress=watching.on_progress, stop=watching.stop)
    return result_of(plan, facts, dict(workload.facts), measured, told), measured


RunAt = Callable[[float], Awaitable[RunResult]]


async def sweep(
    run_at: RunAt, rates_per_s: Sequence[float], refinements: int, goodput_share_min: float
) -> SweepResult:
    """Runs at each rate, ascending, then `refinements` times between what is carried and what is
    not. It ends early at a partial run, and two levels past the knee: more would say no more.
    """
    levels: dict[float, RunResult] = {}
    for rate in sorted(rates_per_s):
        levels[rate] = await run_at(rate)
        if levels[rate].partial or _over(levels, goodput_share_min) >= 2:
            break
    for _ in range(refinements):
        bounds = _bounds(levels, goodput_share_min)
        if bounds is None or any(one.partial for one in levels.values()):
            break
        between = (bounds[0] * bounds[1]) ** 0.5
        levels[between] = await run_at(between)
    results = [levels[rate] for rate in sorted(levels)]
    return SweepResult(
        label=results[0].label,
        levels=results,
        knee=knee_of([(rate, levels[rate]) for rate in sorted(levels)], goodput_share_min),
        partial=any(one.partial for one in results),
    )


def knee_of(levels: Sequence[tuple[float, RunResult]], goodput_share_min: float) -> Knee:
    """The highest rate that is carried, all lower ones being carried too: there at least
    `goodput_share_min` of the requests are answered within the promised latencies."""
    carried: float | None = None
    for rate, result in levels:
        if result.summary.goodput.share < goodput_share_min:
            return Knee(goodput_share_min=goodput_share_min, rate_per_s=carried, is_beyond=False)
        carried = rate
    return Knee(goodput_share_min=goodput_share_min, rate_per_s=carried, is_beyond=True)


def _over(levels: dict[float, RunResult], goodput_share_min: float) -> int:
    """How many levels are not carried."""
    return sum(one.summary.goodput.share < goodput_share_min for one in levels.values())


def _bounds(levels: dict[float, RunResult], goodput_share_min: float) -> tuple[float, float] | None:
    """The knee and the next level above it, which is not carried."""
    rates = sorted(levels)
    knee = knee_of([(rate, levels[rate]) for rate in rates], goodput_share_min)
    if knee.is_beyond or knee.rate_per_s is None:
        return None
    return knee.rate_per_s, next(rate for rate in rates if rate > knee.rate_per_s)
