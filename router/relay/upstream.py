"""HTTP to workers: one exchange at a time, with a deadline on every wait.

Failures are translated once: no connection or a connection lost is `WorkerUnreachable`, silence
is `WorkerTimeout`. Leaving an exchange before its end closes the connection, which makes the
engine abort the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from rhizome.errors import WorkerTimeout, WorkerUnreachable
from rhizome.settings.tree import RelaySettings
from router.fleet import Target


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What is sent to a worker."""

    path: str
    body: bytes
    request_id: str
    headers: Mapping[str, str]


class UpstreamAnswer:
    """A worker's answer whose first bytes have arrived."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        first: bytes,
        deadline: asyncio.Timeout,
        settings: RelaySettings,
    ) -> None:
        self._response = response
        self._first = first
        self._deadline = deadline
        self._settings = settings
        self.status = response.status
        self.content_type = response.headers.get("content-type", "application/json")

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith("text/event-stream")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, the first bytes included.

        Raises `WorkerUnreachable` if it breaks off, `WorkerTimeout` if it stalls.
        """
        chunk = self._first
        loop = asyncio.get_running_loop()
        while chunk:
            self._deadline.reschedule(None)  # a slow client is not a slow worker
            yield chunk
            self._deadline.reschedule(loop.time() + self._settings.idle_timeout_s)
            try:
                chunk = await self._response.content.readany()
            except (aiohttp.ClientError, OSError) as error:
                raise WorkerUnreachable("the worker broke off its answer") from error

    async def whole(self) -> bytes:
        """The complete body; raises also when it is longer than `response_bytes_max`."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > self._settings.response_bytes_max:
                raise WorkerUnreachable(
                    f"the worker's answer is longer than {self._settings.response_bytes_max} bytes"
                )
            parts.append(chunk)
        return b"".join(parts)


class Upstream:
    """Pooled connections to all workers."""

    def __init__(self, session: aiohttp.ClientSession, settings: RelaySettings) -> None:
        self._session = session
        self._settings = settings

    @asynccontextmanager
    async def exchange(
        self, target: Target, request: UpstreamRequest
    ) -> AsyncIterator[UpstreamAnswer]:
        """Sends the request and yields once the answer's first body bytes are here.

        A status line alone does not count: an engine sends it before its first token.
        """
        settings = self._settings
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.total_timeout_s), asyncio.timeout(None) as deadline:
                deadline.reschedule(loop.time() + settings.first_byte_timeout_s)
                try:
                    response = await self._session.post(
                        target.record.url + request.path,
                        data=request.body,
                        headers=_headers(target, request),
                        timeout=aiohttp.ClientTimeout(
                            total=None, sock_connect=settings.connect_timeout_s
                        ),
                        allow_redirects=False,
                    )
                except (aiohttp.ClientError, OSError) as error:
                    raise WorkerUnreachable(_cause(error)) from error
                try:
                    try:
                        first = await response.content.readany()
                    except (aiohttp.ClientError, OSError) as error:
                        raise WorkerUnreachable(_cause(error)) from error
                    yield UpstreamAnswer(response, first, deadline, settings)
                finally:
                    response.close()  # does nothing to a connection that was read to its end
        except TimeoutError as error:
            raise WorkerTimeout("the worker did not answer in time") from error


def _headers(target: Target, request: UpstreamRequest) -> dict[str, str]:
    headers = {
        **request.headers,
        "Content-Type": "application/json",
        "X-Request-Id": request.request_id,
    }
    if target.record.api_key is not None:
        headers["Authorization"] = f"Bearer {target.record.api_key}"
    if target.rank is not None:
        headers["X-data-parallel-rank"] = str(target.rank)
    return headers


def _cause(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection to the worker"
    return "the worker closed the connection before it answered"
