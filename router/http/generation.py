"""The endpoints that generate text; what they answer is the engine's own answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from rhizome.clock import Clock
from rhizome.errors import ClientLeft
from rhizome.ids import request_id_or_new
from router.call import Call
from router.http.bodies import EngineBody, read_chat, read_completion, read_tokenizer_body
from router.http.client import Client, while_client_stays
from router.http.reading import KeyCheck, priority_of, read_body, require_json, trace_headers
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

    async def serve(request: Request, read: Callable[[bytes], EngineBody]) -> Response:
        request_id = request_id_or_new(request.headers.get("x-request-id"))
        request.state.request_id = request_id
        accepted_at_s = clock.monotonic_s()
        require_json(request)
        priority = priority_of(request)
        body = read(await read_body(request, body_bytes_max))
        return _Served(
            service,
            Call(
                path=request.url.path,
                body=body,
                request_id=request_id,
                priority=priority,
                accepted_at_s=accepted_at_s,
                headers=trace_headers(request),
            ),
        )

    @routes.post(
        "/v1/chat/completions",
        tags=["generation"],
        openapi_extra=_json_body(
            {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
        ),
    )
    async def chat_completions(request: Request) -> Response:
        """OpenAI's chat completions; `stream` for server-sent events. Unknown fields pass on."""
        return await serve(request, read_chat)

    @routes.post(
        "/v1/completions",
        tags=["generation"],
        openapi_extra=_json_body({"model": "m", "prompt": "Once upon a time", "max_tokens": 16}),
    )
    async def completions(request: Request) -> Response:
        """OpenAI's completions; `prompt` as text or token ids. Unknown fields pass on."""
        return await serve(request, read_completion)

    @routes.post(
        "/tokenize", tags=["tokenizer"], openapi_extra=_json_body({"model": "m", "prompt": "Hello"})
    )
    async def tokenize(request: Request) -> Response:
        """Token ids of a prompt or of messages, as the model's engine makes them."""
        return await serve(request, read_tokenizer_body)

    @routes.post(
        "/detokenize",
        tags=["tokenizer"],
        openapi_extra=_json_body({"model": "m", "tokens": [1, 2]}),
    )
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        return await serve(request, read_tokenizer_body)

    return routes


def _json_body(example: dict[str, object]) -> dict[str, object]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"required": True, "content": content}}
