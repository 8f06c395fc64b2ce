"""`/v1/responses/{id}`: reading back, cancelling, deleting."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from router.stored.records import Fields
from router.stored.serving import StoringService


def build_stored_routes(service: StoringService) -> APIRouter:
    """The routes; who asks is in `request.state.principal`."""
    routes = APIRouter(prefix="/v1/responses/{response_id}", tags=["responses"])

    @routes.get("", response_model=None)
    async def get_response(
        request: Request,
        response_id: str,
        stream: bool = False,
        starting_after: Annotated[int, Query(ge=0)] | None = None,
    ) -> Fields | StreamingResponse:
        """A stored response; with `stream` as events, those after `starting_after` if it is given.

        Work in the background is waited for.
        """
        owner = _owner(request)
        if not stream:
            return await service.shown(owner, response_id)
        record = await service.found(owner, response_id)
        events = service.retelling.events(owner, record, starting_after)
        return StreamingResponse(events, media_type="text/event-stream")

    @routes.get("/input_items")
    async def get_items(
        request: Request,
        response_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: str = "desc",
        after: str | None = None,
    ) -> dict[str, Any]:
        """What the engine was given for a stored response; the newest first."""
        record = await service.found(_owner(request), response_id)
        items = [
            {"id": f"item_{number}", "type": "message", **item}
            for number, item in enumerate(record.items)
        ]
        if order != "asc":
            items.reverse()
        return _page(items, limit, after)

    @routes.post("/cancel")
    async def cancel_response(request: Request, response_id: str) -> Fields:
        """Stop work in the background."""
        return await service.cancel(_owner(request), response_id)

    @routes.delete("")
    async def delete_response(request: Request, response_id: str) -> Fields:
        """Forget a stored response."""
        await service.remove(_owner(request), response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    return routes


def _page(items: list[dict[str, Any]], limit: int, after: str | None) -> dict[str, Any]:
    """OpenAI's list of the items behind `after`."""
    ids = [item["id"] for item in items]
    if after in ids:
        items = items[ids.index(after) + 1 :]
    shown = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > limit,
    }


def _owner(request: Request) -> str:
    return str(request.state.principal.name)
