"""What the processes say as one: their metrics on one page, their admin APIs behind one port.

Metrics get a label for each process (`router.processes.pages`). Of the admin API a question goes to
all processes: where one knows the answer (a decision is known where it was made) it is that one's,
where several do it is `{"routers": [...]}`, an answer of each. An order goes to all, and the answer
is that of the one that was least content.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from rhizome.clock import Clock
from rhizome.errors import BodyTooLarge, NoHealthyWorker
from router.http.border import error_response
from router.processes.pages import merged
from router.processes.process import Process
from router.processes.watcher import Counters

_log = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
_LOOK_INTERVAL_S = 5.0
_SILENT_MAX = 6
_PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_QUESTIONS = ("GET", "HEAD")
_OK = 200
_NOT_KNOWN = 404
_NOBODY = 503


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """An ASGI app: the page of all processes, and how they fare."""

    processes: Callable[[], Sequence[Process]]
    counters: Counters
    session: aiohttp.ClientSession

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        processes = self.processes()
        pages = await asyncio.gather(*(self.page_of(process) for process in processes))
        told = {
            str(process.number): page
            for process, page in zip(processes, pages, strict=True)
            if page is not None
        }
        response = Response(merged(told) + self._own(len(told)), media_type=_PAGE_TYPE)
        await response(scope, receive, send)

    async def page_of(self, process: Process) -> str | None:
        """A process's own page; None if it does not come in time."""
        url = f"http://127.0.0.1:{process.metrics_port}/metrics"
        try:
            async with self.session.get(url) as response:
                return await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def look(self, clock: Clock) -> None:
        """Ends processes that answer no more, for ever; whoever watches them starts others."""
        while True:
            await clock.sleep(_LOOK_INTERVAL_S)
            for process in self.processes():
                if await self.page_of(process) is not None:
                    process.silent = 0
                    continue
                process.silent += 1
                if process.silent >= _SILENT_MAX and not process.is_leaving:
                    _log.error("router process %d answers no more: ending it", process.number)
                    self.counters.silent += 1
                    process.cut()

    def _own(self, answered: int) -> str:
        counters = self.counters
        return (
            "# HELP router_processes Router processes that answered this scrape.\n"
            "# TYPE router_processes gauge\n"
            f"router_processes {answered}\n"
            "# HELP router_processes_ended_total Router processes that ended, by how.\n"
            "# TYPE router_processes_ended_total counter\n"
            f'router_processes_ended_total{{how="unasked"}} {counters.ended}\n'
            f'router_processes_ended_total{{how="silent"}} {counters.silent}\n'
            f'router_processes_ended_total{{how="replaced"}} {counters.rolled}\n'
        )


@dataclass(frozen=True, slots=True)
class Steering:
    """An ASGI app: the admin APIs of all processes as one."""

    processes: Callable[[], Sequence[Process]]
    session: aiohttp.ClientSession
    body_bytes_max: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await self._body(request)
        if body is None:
            error = BodyTooLarge(f"the body is longer than {self.body_bytes_max} bytes")
            await error_response(error)(scope, receive, send)
            return
        ports = [one.admin_port for one in self.processes() if not one.is_leaving]
        asked = [self._ask(port, request, body) for port in ports if port is not None]
        answers = await asyncio.gather(*asked)
        if request.method in _QUESTIONS:
            answer = one_answer(answers)
        else:
            answer = max(answers, key=lambda one: one.status_code, default=_nobody())
        await answer(scope, receive, send)

    async def _body(self, request: Request) -> bytes | None:
        """None where it is too long."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > self.body_bytes_max:
                return None
        return body

    async def _ask(self, port: int, request: Request, body: bytes) -> Response:
        url = f"http://127.0.0.1:{port}{request.url.path}"
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in ("authorization", "content-type", "accept", "origin", "host")
        }
        try:
            async with self.session.request(
                request.method, url, params=str(request.url.query), data=body, headers=headers
            ) as response:
                return Response(
                    await response.read(),
                    response.status,
                    media_type=response.headers.get("content-type"),
                )
        except (aiohttp.ClientError, TimeoutError):
            return _nobody()


def one_answer(answers: Sequence[Response]) -> Response:
    """To a question that all were asked: of those that know, whose answers may be lists."""
    known = [one for one in answers if one.status_code not in (_NOT_KNOWN, _NOBODY)]
    if not known:
        return min(answers, key=lambda one: one.status_code, default=_nobody())
    if len(known) == 1 or any(one.status_code != _OK for one in known):
        return known[0]
    bodies = [_object(one) for one in known]
    if all("router" in one and any(isinstance(v, list) for v in one.values()) for one in bodies):
        return JSONResponse({"routers": bodies})
    return known[0]


def _object(answer: Response) -> dict[str, Any]:
    try:
        found = json.loads(bytes(answer.body))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _nobody() -> Response:
    return error_response(NoHealthyWorker("no router process answers; try again"))


def session() -> aiohttp.ClientSession:
    """For both; the caller closes it."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
