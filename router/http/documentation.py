"""The engine's endpoints in the app's documentation, and in its answers to a wrong method.

Their requests are served before they come to the app (`router.http.front`).
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from rhizome.errors import UnknownRoute
from router.http.surface import ENDPOINTS, Endpoint

_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `error.param` names the field."},
    404: {"description": "The model does not exist."},
    413: {"description": "The body is too long."},
    429: {"description": "Every worker is full and the queue too; see `Retry-After`."},
    502: {"description": "No worker could be reached."},
    503: {"description": "The model has no worker that can take requests now."},
    504: {"description": "The worker did not answer in time."},
}


def build_documentation() -> APIRouter:
    """A route for each row of the table."""
    routes = APIRouter(responses=_RESPONSES)
    for endpoint in ENDPOINTS:
        routes.add_api_route(
            endpoint.path,
            _served_elsewhere,
            methods=["POST"],
            tags=[endpoint.tag],
            name=endpoint.path,
            summary=endpoint.summary,
            description=endpoint.description,
            responses={200: _answer(endpoint)},
            openapi_extra=_request_body(endpoint),
        )
    return routes


async def _served_elsewhere(request: Request) -> None:
    """Reached only by a path that is written in an unusual way."""
    raise UnknownRoute(f"write the path as {request.url.path}")


def _answer(endpoint: Endpoint) -> dict[str, Any]:
    """The engine's answer; in events for those that ask for a stream."""
    content: dict[str, Any] = {"application/json": {}}
    if "stream" in endpoint.schema.get("properties", ()):
        content["text/event-stream"] = {}
    return {"description": "The engine's answer.", "content": content}


def _request_body(endpoint: Endpoint) -> dict[str, object]:
    content = {"schema": dict(endpoint.schema), "example": dict(endpoint.example)}
    return {"requestBody": {"required": True, "content": {endpoint.media_type: content}}}
