"""Sends one line to the router and waits for its answer, as patiently as batch work should be.

A router that is full (429), has no worker (503), refuses our key (401, 403: someone will mend the
settings) or is not there costs only time, and so does a model that a router does not know (404)
just after it was started. An answer of 5xx or a connection that breaks in the middle costs one of a
few attempts: such a request may be what kills engines. Everything else is the line's answer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import aiohttp
import msgspec

from rhizome.clock import Clock
from rhizome.settings.cluster import BatchSettings
from rhizome.stores.lines import Line, LineResult
from router.batch.outputs import answered, not_answered

_log = logging.getLogger(__name__)
_BUSY = frozenset({401, 403, 429, 503})
_PAUSE_S_MIN = 0.5
_PAUSE_S_MAX = 30.0
_FLEET_FORMS_S = 60.0
"""A router that just came up may not have seen its workers yet."""
_CONNECT_TIMEOUT_S = 5.0
_READ_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one attempt came to; `fault` is a code and a message where there is no body to keep."""

    status: int
    request_id: str = ""
    retry_after_s: float | None = None
    body: bytes = b""
    fault: tuple[str, str] | None = None


class LineSender:
    """Sends lines over one HTTP session, which the caller owns."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        router_url: str,
        api_key: str | None,
        settings: BatchSettings,
        clock: Clock,
    ) -> None:
        self._session = session
        self._router_url = router_url.rstrip("/")
        self._headers = {"content-type": "application/json", "x-rhizome-priority": "batch"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._settings = settings
        self._timeout = aiohttp.ClientTimeout(
            total=settings.line_timeout_s, sock_connect=_CONNECT_TIMEOUT_S
        )
        self._clock = clock
        self._fleet_formed_s = clock.monotonic_s() + _FLEET_FORMS_S

    async def send(self, line: Line) -> LineResult:
        """The line's end; returns only when there is one, so bound it by cancelling."""
        failures = 0
        pause_s = _PAUSE_S_MIN
        while True:
            answer = await self._attempt(line)
            if not self._costs_only_time(answer):
                failures += answer.status >= 500
                if answer.status < 500 or failures >= self._settings.deliveries_max:
                    return _ended(line, answer)
            _log.debug("line %s waits: %s %s", line.index, answer.status, answer.fault)
            asked_s = answer.retry_after_s
            await self._clock.sleep(pause_s if asked_s is None else min(asked_s, _PAUSE_S_MAX))
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def _costs_only_time(self, answer: _Answer) -> bool:
        if answer.status in (401, 403):
            _log.warning("the router refuses our key; lines wait (batch.api_key)")
        if answer.status == 404:
            return self._clock.monotonic_s() < self._fleet_formed_s
        return answer.status in _BUSY

    async def _attempt(self, line: Line) -> _Answer:
        try:
            return await self._ask(line)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._fleet_formed_s = self._clock.monotonic_s() + _FLEET_FORMS_S
            return _Answer(503, fault=("router_unreachable", str(error)))
        except TimeoutError:
            limit_s = self._settings.line_timeout_s
            return _Answer(408, fault=("line_timeout", f"no answer within {limit_s:g} s"))
        except aiohttp.ClientError as error:
            message = f"the connection broke in every attempt, at last by {type(error).__name__}"
            return _Answer(502, fault=("connection_broken", message))

    async def _ask(self, line: Line) -> _Answer:
        request_id = f"{line.batch_id}.{line.index}"
        async with self._session.post(
            self._router_url + line.url,
            data=line.body,
            headers={**self._headers, "x-request-id": request_id},
            timeout=self._timeout,
            allow_redirects=False,
        ) as response:
            body = await _read(response, self._settings.result_bytes_max)
            too_long = ("response_too_long", "the response is longer than is kept")
            return _Answer(
                status=response.status,
                request_id=response.headers.get("x-request-id", request_id),
                retry_after_s=_seconds(response.headers.get("retry-after")),
                body=body or b"",
                fault=too_long if body is None else None,
            )


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes | None:
    """The body; None where it is longer than `bytes_max`."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(_READ_BYTES):
        size += len(part)
        if size > bytes_max:
            return None
        parts.append(part)
    return b"".join(parts)


def _seconds(retry_after: str | None) -> float | None:
    """The header's value where it is a number of seconds."""
    if retry_after is None or not retry_after.strip().isdigit():
        return None
    return max(_PAUSE_S_MIN, float(retry_after))


def _ended(line: Line, answer: _Answer) -> LineResult:
    if answer.fault is not None:
        return _unanswered(line, *answer.fault)
    try:
        body = msgspec.json.decode(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        message = f"the response (status {answer.status}) is not JSON"
        return _unanswered(line, "invalid_response", message)
    return answered(
        line.batch_id, line.index, line.custom_id, answer.status, (answer.request_id, body)
    )


def _unanswered(line: Line, code: str, message: str) -> LineResult:
    return not_answered(line.batch_id, line.index, line.custom_id, code, message)
