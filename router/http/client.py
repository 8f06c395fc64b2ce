"""The client's side of one exchange, on bare ASGI: headers, bytes as they come, its leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping

from starlette.types import Receive, Send

from rhizome.errors import ClientLeft, RhizomeError


class Client:
    """Writes a response to the client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        """Headers went out: from here an error can only be told inside the body."""

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (name.lower().encode("latin-1"), value.encode("latin-1"))
                    for name, value in headers.items()
                ],
            }
        )

    async def write(self, data: bytes) -> None:
        """Waits while the client's socket is full."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


async def while_client_stays(receive: Receive, work: Awaitable[None]) -> None:
    """Runs `work` and cancels it when the client disconnects; raises `ClientLeft` then.

    Call it only after the request's body has been read: the next message is then the disconnect.
    """
    failure: RhizomeError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_leaving(receive))
            try:
                await work
            except RhizomeError as error:
                failure = error
            finally:
                watch.cancel()
    except* ClientLeft as left:
        failure = failure or ClientLeft(str(left.exceptions[0]))
    if failure is not None:
        raise failure


async def _leaving(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft("the client closed the connection")
