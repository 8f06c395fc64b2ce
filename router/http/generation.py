"""The endpoints that generate text; what they answer is the engine's own answer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from rhizome.clock import Clock
from rhizome.errors import ClientLeft
from rhizome.ids import request_id_or_new
from router.call import Call
from router.http.client import Client, while_client_stays
from router.http.reading import (
    KeyCheck,
    priority_of,
    read_body,
    require_media_type,
    trace_headers,
)
from router.http.surface import ENDPOINT_OF, ENDPOINTS, Arrival, Endpoint
from router.service import Service

_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is wrong; `error.param` names the field."},
    404: {"description": "The model does not exist."},
    413: {"description": "The body is too long."},
    429: {"description": "Every worker is full and the queue too; see `Retry-After`."},
    502: {"description": "No worker could be reached."},
    503: {"description": "The model has no worker that can take requests now."},
    504: {"description": "The worker did not answer in time."},
}


class _Served(Response):
    """A response that the service writes itself while the client stays."""

    def __init__(self, service: Service, call: Call) -> None:
        super().__init__()
        self._service = service
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(send)
        try:
            await while_client_stays(receive, self._service.serve(self._call, client))
        except ClientLeft:
            return


def build_generation(
    service: Service, keys: KeyCheck, body_bytes_max: int, clock: Clock
) -> APIRouter:
    """Routes for chat, completions and the tokenizer."""
    routes = APIRouter(dependencies=[Depends(keys)], responses=_RESPONSES)

    async def serve(request: Request) -> Response:
        endpoint = ENDPOINT_OF[request.url.path]
        request_id = request_id_or_new(request.headers.get("x-request-id"))
        request.state.request_id = request_id
        accepted_at_s = clock.monotonic_s()
        require_media_type(request, endpoint.media_type)
        priority = priority_of(request)
        data = await read_body(request, body_bytes_max)
        body = endpoint.read(Arrival(data, request.headers["content-type"]))
        return _Served(
            service,
            Call(
                endpoint=endpoint,
                body=body,
                request_id=request_id,
                priority=priority,
                accepted_at_s=accepted_at_s,
                principal=request.state.principal,
                headers=trace_headers(request),
            ),
        )

    for endpoint in ENDPOINTS:
        routes.add_api_route(
            endpoint.path,
            serve,
            methods=["POST"],
            tags=[endpoint.tag],
            name=endpoint.path,
            summary=endpoint.summary,
            description=endpoint.description,
            openapi_extra=_request_body(endpoint),
        )
    return routes


def _request_body(endpoint: Endpoint) -> dict[str, object]:
    content = {"schema": {"type": "object"}, "example": dict(endpoint.example)}
    return {"requestBody": {"required": True, "content": {endpoint.media_type: content}}}
