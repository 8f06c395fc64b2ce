"""Decisions: why a request went where it went, where one would go now, and what shadows say."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query

from rhizome.errors import UnknownObject, UnknownRoute
from rhizome.ids import new_id
from router.admin.parts import Parts
from router.admin.views import Route, ShadowList
from router.admission.classes import Priority
from router.call import Call
from router.decisions.records import Decision
from router.decisions.views import DecisionList, DecisionView, decision_view, shadow_view
from router.http.surface import ENDPOINT_OF, JSON, Arrival

LIST_MAX = 1000


def build_decisions(parts: Parts) -> APIRouter:
    """Routes for decisions."""
    routes = APIRouter(prefix="/admin/v1", tags=["decisions"])

    def view(decision: Decision) -> DecisionView:
        offset_s = parts.clock.wall_s() - parts.clock.monotonic_s()
        return decision_view(decision, parts.router_id, offset_s)

    @routes.get("/decisions")
    async def list_decisions(
        limit: Annotated[int, Query(ge=1, le=LIST_MAX)] = 50,
    ) -> DecisionList:
        """The latest decisions of this router, newest first."""
        return DecisionList(
            router=parts.router_id,
            kept=len(parts.decisions),
            forgotten=parts.decisions.forgotten,
            decisions=[view(one) for one in parts.decisions.latest(limit)],
        )

    @routes.get("/decisions/{request_id}")
    async def get_decision(request_id: str) -> DecisionView:
        """One request by its `x-request-id`: candidates, choice, reason, and what came of it."""
        decision = parts.decisions.get(request_id)
        if decision is None:
            raise UnknownObject(_not_here(parts, request_id))
        return view(decision)

    @routes.post("/route")
    async def preview(asked: Route) -> DecisionView:
        """Where a request would go now, and why. Nothing is sent, booked or predicted."""
        endpoint = ENDPOINT_OF.get(asked.path)
        if endpoint is None or endpoint.media_type != JSON:
            known = ", ".join(path for path, one in ENDPOINT_OF.items() if one.media_type == JSON)
            raise UnknownRoute(f"no engine answers {asked.path!r}; paths that do: {known}")
        call = Call(
            endpoint=endpoint,
            body=endpoint.read(Arrival(msgspec.json.encode(asked.body), JSON)),
            request_id=new_id("preview"),
            priority=Priority(asked.priority),
            accepted_at_s=parts.clock.monotonic_s(),
        )
        prospect = await parts.service.preview(call)
        return view(call.decision).model_copy(update={"state": "preview", "prospect": prospect})

    @routes.get("/shadows")
    async def list_shadows() -> ShadowList:
        """What the shadow policies would have chosen (`router.scheduling.shadows`)."""
        shadows = parts.dispatcher.shadows
        tallies = {} if shadows is None else shadows.tallies
        return ShadowList(
            router=parts.router_id,
            policy=parts.dispatcher.policy.name,
            shadows=[shadow_view(name, tally) for name, tally in tallies.items()],
        )

    return routes


def _not_here(parts: Parts, request_id: str) -> str:
    ring = parts.decisions
    oldest = ring.oldest()
    kept = "none is kept yet"
    if oldest is not None:
        age_s = parts.clock.monotonic_s() - oldest.accepted_at_s
        kept = f"the latest {len(ring)} are kept, which go back {age_s:.0f} s"
        if ring.forgotten:
            kept += " (router.decisions.count_max and bytes_max bound them)"
    return (
        f"this router ({parts.router_id}) has no decision of request {request_id!r}; {kept}. "
        "Another router may have it: the answer's header x-rhizome-router tells which."
    )
