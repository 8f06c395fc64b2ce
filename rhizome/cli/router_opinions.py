"""What routers think of workers, for `rhizome status`: asked in passing, missed by nobody.

The status is read from the stores (ADR 7); a router that does not answer leaves its part blank.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rhizome.cli.admin import AdminApi, each_router
from rhizome.cli.fleet_view import FleetView
from rhizome.errors import StartError
from rhizome.fleet.records import WorkerState

_WAIT_S = 2.0
_WORST_FIRST = ("fallback", "degraded", "exact")
_HELD = ("suspended", "warming")
"""States that a ready worker may have at a router, the graver one first."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """Of one worker: the gravest of what routers say."""

    trust: str = ""
    held: str = ""
    """Why a router sends it nothing though it is ready."""


async def ask_routers(admins: Sequence[AdminApi]) -> dict[str, Opinion]:
    """The opinions of all routers that answer within a moment, by worker."""
    answers = await asyncio.gather(*(_ask(admin) for admin in admins))
    return merged(each_router([one for one in answers if one is not None]))


def merged(answers: Iterable[Mapping[str, Any]]) -> dict[str, Opinion]:
    """Of several routers' lists of workers."""
    found: dict[str, Opinion] = {}
    for one in (worker for answer in answers for worker in answer["workers"]):
        known = found.get(one["worker"], Opinion())
        found[one["worker"]] = Opinion(
            trust=_first(_WORST_FIRST, known.trust, one["trust"]),
            held=_first(_HELD, known.held, one["state"]),
        )
    return found


def with_opinions(view: FleetView, opinions: Mapping[str, Opinion]) -> FleetView:
    """The view with what routers think of its workers."""
    rows = []
    for row in view.workers:
        opinion = opinions.get(row.worker_id, Opinion())
        is_ready = row.state == WorkerState.READY.value
        state = opinion.held if opinion.held and is_ready else row.state
        rows.append(replace(row, trust=opinion.trust, state=state))
    return replace(view, workers=tuple(rows))


def _first(order: Sequence[str], *given: str | None) -> str:
    return next((one for one in order if one in given), "")


async def _ask(admin: AdminApi) -> Any:
    try:
        async with asyncio.timeout(_WAIT_S):
            return await admin.call("GET", "/workers")
    except (StartError, TimeoutError):
        return None
