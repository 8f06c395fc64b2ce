"""From runs to numbers and to verdicts: what was claimed, what came out, whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from loadtest.spread.cases import AFFINITY, CAME_S, COLD
from loadtest.spread.playing import Played

SCHEMA = "rhizome.spread/1"
WINDOW_S = 15.0
FIRST_S = 60.0
"""What counts as the beginning of a worker's life."""
_SPEED_KNOWN_S = 60.0


class Newcomer(msgspec.Struct, frozen=True, kw_only=True):
    """The worker that came (back) while requests did: its first minute."""

    requests: int
    share: float
    """Of all requests of that minute."""
    ttft_ms_mean: float | None
    ttft_ms_p99: float | None
    fleet_ttft_ms_mean: float
    """Of all workers in that minute: a cold newcomer gets only what suits it."""
    cached_ratio_dip: float
    """By how much the whole fleet reused less than in the half minute before; below 0: more."""
    in_flight_max_over_others: float
    """Most requests it had at once, by the most that any other had in that minute."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario under one policy, after its warm-up."""

    case: str
    policy: str
    rate_per_s: float
    ttft_ms_mean: float
    ttft_ms_p99: float
    cached_ratio: float
    in_flight_mean: float
    """Requests at an engine, running or waiting."""
    in_flight_max_over_mean: float
    """The fullest worker by the mean of all at a moment; the mean over all moments."""
    shares: list[float]
    """Each worker's share of the requests."""
    window_shares: list[list[float]]
    """The same in windows of `WINDOW_S` from the run's beginning."""
    failed: int
    newcomer: Newcomer | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One claim about the case's first policy."""

    case: str
    claim: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is within its bounds."""
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


class SpreadResult(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found."""

    schema: str = SCHEMA
    rhizome_version: str
    command: str
    profile: str
    load: float
    seed: int
    cases: dict[str, dict[str, Any]]
    """What each case asked, and its capacity in requests a second."""
    rows: list[Row]
    verdicts: list[Verdict]


def row_of(played: Played) -> Row:
    """The run's numbers."""
    case, begin_s = played.case, played.case.warmup_s
    ttft_ms = played.ttft_ms(begin_s)
    in_flight = played.in_flight(begin_s)
    mean = in_flight.mean(axis=1)
    busy = mean > 0
    return Row(
        case=case.name,
        policy=played.policy,
        rate_per_s=played.rate_per_s,
        ttft_ms_mean=float(ttft_ms.mean()),
        ttft_ms_p99=float(np.percentile(ttft_ms, 99)),
        cached_ratio=played.cached_ratio(begin_s),
        in_flight_mean=float(mean.mean()),
        in_flight_max_over_mean=float((in_flight.max(axis=1)[busy] / mean[busy]).mean()),
        shares=played.shares(begin_s).tolist(),
        window_shares=[
            played.shares(start_s, start_s + WINDOW_S).tolist()
            for start_s in np.arange(0.0, case.duration_s, WINDOW_S).tolist()
        ],
        failed=played.failed(),
        newcomer=None if case.newcomer is None else _newcomer(played, case.newcomer),
    )


def _newcomer(played: Played, place: int) -> Newcomer:
    end_s = CAME_S + FIRST_S
    ttft_ms = played.ttft_ms(CAME_S, end_s, place)
    busiest = played.in_flight(CAME_S, end_s).max(axis=0)
    before = played.cached_ratio(CAME_S - FIRST_S / 2, CAME_S)
    return Newcomer(
        requests=len(ttft_ms),
        share=float(played.shares(CAME_S, end_s)[place]),
        ttft_ms_mean=float(ttft_ms.mean()) if len(ttft_ms) else None,
        ttft_ms_p99=float(np.percentile(ttft_ms, 99)) if len(ttft_ms) else None,
        fleet_ttft_ms_mean=float(played.ttft_ms(CAME_S, end_s).mean()),
        cached_ratio_dip=before - played.cached_ratio(CAME_S, end_s),
        in_flight_max_over_others=float(busiest[place] / max(1.0, np.delete(busiest, place).max())),
    )


Rows = Mapping[str, Row]
"""A case's rows by policy."""


def _of_zipf(rows: Rows, own: Row) -> list[Verdict]:
    affinity, least = rows[AFFINITY], rows["least_loaded"]
    return [
        Verdict(
            case=own.case,
            claim="in flight, max over mean",
            value=own.in_flight_max_over_mean,
            at_most=1.5,
        ),
        Verdict(
            case=own.case,
            claim="reused tokens, by those of pure affinity",
            value=own.cached_ratio / affinity.cached_ratio,
            at_least=0.8,
        ),
        Verdict(
            case=own.case,
            claim="p99 TTFT, by that of least loaded",
            value=own.ttft_ms_p99 / least.ttft_ms_p99,
            at_most=1.2,
        ),
    ]


def _of_one_prefix(rows: Rows, own: Row) -> list[Verdict]:
    claim = "smallest share of a worker"
    return [Verdict(case=own.case, claim=claim, value=min(own.shares), at_least=0.05)]


def _of_unequal(rows: Rows, own: Row) -> list[Verdict]:
    """The first half of the workers is fast; by speed alone it would get three quarters."""
    half = len(own.shares) // 2
    at = int(_SPEED_KNOWN_S / WINDOW_S)
    fast = np.array(own.window_shares)[:, :half].sum(axis=1)
    soon = float(fast[1:at].mean())  # one window alone has some 300 requests: +-5 % by chance
    later = fast[at:].mean()
    return [
        Verdict(
            case=own.case,
            claim="share of the fast workers, 15 to 60 s after the start",
            value=soon,
            at_least=0.7,
        ),
        Verdict(
            case=own.case,
            claim="how far that is from their share later",
            value=abs(soon - float(later)),
            at_most=0.05,
        ),
        Verdict(
            case=own.case,
            claim="smallest share of a slow worker, by its speed's share",
            value=min(own.shares[half:]) * 2 * (1 + 3),
            at_least=0.4,
        ),
    ]


def _of_newcomer(rows: Rows, own: Row) -> list[Verdict]:
    """The newcomer is neither starved nor flooded, and reuses from the beginning."""
    newcomer, cold = own.newcomer, rows[COLD].newcomer
    assert newcomer is not None
    assert cold is not None
    return [
        Verdict(
            case=own.case,
            claim="newcomer's share of its first minute",
            value=newcomer.share,
            at_least=0.1,
        ),
        Verdict(
            case=own.case,
            claim="its most requests at once, by the others'",
            value=newcomer.in_flight_max_over_others,
            at_most=1.5,
        ),
        Verdict(
            case=own.case,
            claim="how much less the fleet reuses in that minute",
            value=newcomer.cached_ratio_dip,
            at_most=0.1,
        ),
        Verdict(
            case=own.case,
            claim="the fleet's mean TTFT in that minute, by that without warm-up",
            value=newcomer.fleet_ttft_ms_mean / cold.fleet_ttft_ms_mean,
            at_most=1.0,
        ),
    ]


_JUDGES: Mapping[str, Callable[[Rows, Row], list[Verdict]]] = {
    "zipf": _of_zipf,
    "zipf-tight": _of_zipf,
    "one-prefix": _of_one_prefix,
    "unequal": _of_unequal,
    "unequal-zipf": _of_unequal,
    "join": _of_newcomer,
    "join-agents": _of_newcomer,
    "restart": _of_newcomer,
}


def verdicts_of(rows: Rows, own: Row) -> list[Verdict]:
    """What was claimed of the case's first policy, whose row `own` is."""
    broken = rows[COLD].failed if COLD in rows else 0  # by a worker's death, warm or cold
    answered = Verdict(
        case=own.case, claim="requests without an answer", value=own.failed, at_most=broken
    )
    return [answered, *_JUDGES[own.case](rows, own)]
