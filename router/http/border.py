"""Where errors become responses: in the API's own shape, with the right status, no stack trace.

This is the one place of the router that catches every exception.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from rhizome.errors import (
    BodyTooLarge,
    InternalFault,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    RequestError,
    UnknownRoute,
)
from router.http.surface import ENDPOINT_OF
from router.relay.dialect import OPENAI

_log = logging.getLogger(__name__)


def error_response(error: RequestError, request_id: str | None = None, path: str = "") -> Response:
    """The response that tells the client of `error`, as the API at `path` tells errors."""
    headers = {}
    if request_id is not None:
        headers["x-request-id"] = request_id
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    endpoint = ENDPOINT_OF.get(path)
    dialect = OPENAI if endpoint is None else endpoint.dialect
    body = dialect.error_body(error)
    return Response(body, error.status, headers=headers, media_type="application/json")


def install_border(app: FastAPI) -> None:
    """Makes every failure of the app an error object of ours."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        request_id = getattr(request.state, "request_id", None)
        return error_response(error, request_id, request.url.path)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        answer = error_response(_translate(request, error), path=request.url.path)
        answer.headers.update(error.headers or {})  # a 405 names the methods there are
        return answer

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        return error_response(_named(error.errors()[0]), path=request.url.path)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        _log.error("fault while serving %s %s", request.method, request.url.path, exc_info=error)
        fault = InternalFault("an internal error; the router's log has the details")
        return error_response(fault, path=request.url.path)


def _named(fault: Mapping[str, Any]) -> RequestError:
    """What FastAPI found wrong with a request, by the field that it is about."""
    if fault["type"] == "json_invalid":
        return MalformedBody(f"the body is not valid JSON: {fault['ctx']['error']}")
    where, what = ".".join(str(part) for part in fault["loc"][1:]), fault["msg"]
    return InvalidRequest(f"{where!r}: {what}" if where else what, param=where or None)


def _translate(request: Request, error: HTTPException) -> RequestError:
    path = request.url.path
    if error.status_code == 404:
        return UnknownRoute(f"there is no route {request.method} {path}; see /docs for those there")
    if error.status_code == 405:
        return MethodNotAllowed(f"{path} does not accept {request.method}; see /docs")
    if error.status_code == 413:
        return BodyTooLarge(str(error.detail))
    if error.status_code < 500:
        return InvalidRequest(str(error.detail))
    return InternalFault("an internal error; the router's log has the details")
