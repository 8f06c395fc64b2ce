"""The autoscaler's decision: a pure function of what is seen, what is remembered and the time.

Growing is quick: queue wait, predicted first-token time or refusals above their targets for
`up_after_s` add workers, at most `step_max` at once, and workers still loading count as there.
Shrinking is slow: only to the most that was needed at any moment of the last `down_after_s`, where
needed means that the rest would stay below `down_utilization` of its room (a simulated removal).

Promises: the target stays within its bounds; without signals nothing changes, and with some stale
nothing shrinks; a shrink comes `down_after_s` or more after any other change, and after the last
worker has loaded, so there is at most one turn from growing to shrinking in that time; a target
that an operator set is a new start. A turn back to growing is never held up: late capacity breaks
the promise to clients, an early one only costs.

Left out: forecasts, learned capacity, a choice between pools. The target of a model without bounds
is not decided here.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, floor

from cluster.scaling.types import Decision, Demand, Observation, Reason, ScalingState
from rhizome.settings.cluster import ScalingSettings


def decide(
    state: ScalingState, seen: Observation, settings: ScalingSettings, now_s: float
) -> Decision:
    """The next target of one model; call it at every reconciliation with the state it returned."""
    target = min(max(seen.target, seen.min_workers), seen.max_workers)
    if target != seen.target:
        explain = f"{seen.target} lies outside the bounds {seen.min_workers} to {seen.max_workers}"
        return _changed(target, Reason.BOUNDS, explain, now_s)
    if state.target != seen.target:
        state = ScalingState(target=seen.target)
    if seen.demand is None:
        unwatched = ScalingState(target=target)
        return Decision(target, Reason.NO_SIGNALS, "no router reports; holding", unwatched)
    state = _watch(state, seen, seen.demand, settings, now_s)
    pressure = _pressure(seen.demand, settings)
    if pressure is not None:
        return _grow(state, seen, seen.demand, pressure, settings, now_s)
    state = replace(state, pressure_since_s=None)
    return _shrink(state, seen, seen.demand, settings, now_s)


def _grow(
    state: ScalingState,
    seen: Observation,
    demand: Demand,
    pressure: tuple[float, str],
    settings: ScalingSettings,
    now_s: float,
) -> Decision:
    ratio, explain = pressure
    if seen.target >= seen.max_workers:
        return Decision(seen.target, Reason.AT_MAXIMUM, f"{explain}; at the maximum", state)
    if seen.target == 0:
        return _changed(1, Reason.FIRST_WORKER, f"{explain}; no worker yet", now_s)
    since_s = now_s if state.pressure_since_s is None else state.pressure_since_s
    state = replace(state, pressure_since_s=since_s)
    if now_s - since_s < settings.up_after_s:
        return Decision(seen.target, Reason.PRESSURE_YOUNG, f"{explain}; watching", state)
    wanted = _wanted(seen, demand, ratio, settings)
    if seen.ready == 0 or wanted <= seen.target:
        explain = f"{explain}; {seen.target - seen.ready} workers to come will take it"
        return Decision(seen.target, Reason.LOADING, explain, state)
    target = min(wanted, seen.target + settings.step_max, seen.max_workers)
    return _changed(target, Reason.PRESSURE, explain, now_s)


def _wanted(seen: Observation, demand: Demand, ratio: float, settings: ScalingSettings) -> int:
    """Workers that would end the pressure, from what the ready ones show.

    A wait grows for as long as nothing is done about it, so it asks for `step_max` more than the
    ready ones at most; the requests in the system ask for as many as have room for them.
    """
    by_pressure = seen.ready + min(settings.step_max, max(1, ceil(seen.ready * (ratio - 1))))
    return max(by_pressure, ceil(demand.requests / seen.room_per_worker))


def _shrink(
    state: ScalingState,
    seen: Observation,
    demand: Demand,
    settings: ScalingSettings,
    now_s: float,
) -> Decision:
    need = max(state.needs[0][1] if state.needs else seen.target, seen.min_workers)
    load = f"{demand.requests} requests in the room of {seen.ready * seen.room_per_worker}"
    now_need = max(_need(seen, demand, settings), seen.min_workers)
    if min(need, now_need) >= seen.target:
        return Decision(seen.target, Reason.STEADY, load, state)
    since_s = now_s if state.watched_since_s is None else state.watched_since_s
    if need >= seen.target or now_s - since_s < settings.down_after_s:
        explain = f"{load}; {now_need} would do, if it stays so"
        return Decision(seen.target, Reason.COOLING_DOWN, explain, state)
    explain = f"{load}; {need} were enough for {settings.down_after_s:g} s"
    return Decision(need, Reason.LOW_USE, explain, replace(state, target=need))


def _watch(
    state: ScalingState,
    seen: Observation,
    demand: Demand,
    settings: ScalingSettings,
    now_s: float,
) -> ScalingState:
    """Remembers what is needed now.

    The cool-down starts again at a gap in what is known, and lasts from the moment that all
    workers are there: one that has just loaded is not thrown away at once.
    """
    if not demand.complete or seen.loading > 0:
        return replace(state, watched_since_s=None, needs=())
    since_s = now_s if state.watched_since_s is None else state.watched_since_s
    need = _need(seen, demand, settings)
    oldest_s = now_s - settings.down_after_s
    kept = [one for one in state.needs if one[0] >= oldest_s and one[1] > need]
    return replace(state, watched_since_s=since_s, needs=(*kept, (now_s, need)))


def _need(seen: Observation, demand: Demand, settings: ScalingSettings) -> int:
    """The fewest workers, up to the target, that would stay calm under this demand.

    First-token time is taken to grow in proportion as workers go, but not beyond one request a
    worker: from there on nobody waits for another, and it is the prompt's own.
    """
    if _pressure(demand, settings) is not None:
        return seen.target
    calm_room = settings.down_utilization * seen.room_per_worker
    if demand.requests and not calm_room:
        return seen.target
    by_room = floor(demand.requests / calm_room) + 1 if demand.requests else 0
    ttft_ms = demand.predicted_ttft_ms_p90 or 0.0
    by_ttft = ceil(seen.ready * ttft_ms / settings.ttft_target_ms)
    return min(max(by_room, min(by_ttft, demand.requests)), seen.target)


def _pressure(demand: Demand, settings: ScalingSettings) -> tuple[float, str] | None:
    """How many times over its target the worst reading is, and in words; None without pressure."""
    ttft_ms = demand.predicted_ttft_ms_p90
    if ttft_ms is not None and ttft_ms > settings.ttft_target_ms:
        words = f"predicted first token {ttft_ms:.0f} ms, target {settings.ttft_target_ms:.0f} ms"
        return ttft_ms / settings.ttft_target_ms, words
    wait_ms, wait_target_ms = demand.queue_wait_ms_max, settings.queue_wait_target_ms
    if wait_ms > wait_target_ms:
        words = f"queue wait {wait_ms:.0f} ms, target {wait_target_ms:.0f} ms"
        return wait_ms / max(wait_target_ms, 1.0), words
    if demand.refused > 0:
        return 1.0, f"{demand.refused} requests refused"
    return None


def _changed(target: int, reason: Reason, explain: str, now_s: float) -> Decision:
    """A new target that is no shrink by low use: pressure and cool-down count from here."""
    return Decision(target, reason, explain, ScalingState(target=target, watched_since_s=now_s))
