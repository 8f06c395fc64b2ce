"""A listening socket and its connections, from the first accept to the end of the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

from router.http.server.connection import ClientConnection, Shared

BACKLOG = 2048
"""Connections that may wait to be accepted."""
_LOOK_S = 0.05
_ACCEPTED_LAST_MAX = 1024
_IDLE_GRACE_S = 1.0
_PEER_IDLE_S = 30
_PEER_PROBE_S = 10
_PEER_PROBES = 3


class Listener:
    """Accepts on one socket; `close` pairs with `open`."""

    def __init__(self, shared: Shared, tls: ssl.SSLContext | None = None) -> None:
        self._shared = shared
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._listening: socket.socket | None = None

    async def open(self, listening: socket.socket) -> None:
        """Serves on the socket, which listens from now on if it does not yet."""
        _set_options(listening)
        self._listening = listening
        self._server = await asyncio.get_running_loop().create_server(
            lambda: ClientConnection(self._shared),
            sock=listening,
            ssl=self._tls,
            backlog=BACKLOG,
        )

    async def close(self, grace_s: float) -> None:
        """Accepts no more, lets what is being answered end within the grace, then cuts.

        Connections that seem idle stay for a moment: a request may be on its way on them, and its
        answer then says that it was the last.
        """
        if self._server is None:
            return
        await self._accept_the_rest()
        self._server.close()
        self._shared.is_draining = True
        connections = self._shared.connections
        await self._until_none(min(_IDLE_GRACE_S, grace_s / 2))
        for connection in list(connections):
            connection.drain()
        await self._until_none(grace_s)
        for connection in list(connections):
            connection.transport.abort()

    async def _accept_the_rest(self) -> None:
        """Takes in who has connected already: closing the socket would reset them unheard."""
        if self._listening is None:
            return
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTED_LAST_MAX):
            try:
                accepted, _ = self._listening.accept()
            except OSError:  # nobody is left
                return
            accepted.setblocking(False)
            with contextlib.suppress(OSError):  # gone again
                await loop.connect_accepted_socket(
                    lambda: ClientConnection(self._shared), accepted, ssl=self._tls
                )

    async def _until_none(self, wait_s: float) -> None:
        end_s = asyncio.get_running_loop().time() + wait_s
        connections = self._shared.connections
        while connections and asyncio.get_running_loop().time() < end_s:  # noqa: ASYNC110 - a set
            await asyncio.sleep(_LOOK_S)


def _set_options(listening: socket.socket) -> None:
    """Options that accepted connections inherit: no delay, and probes of peers that are silent."""
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _PEER_IDLE_S),
        ("TCP_KEEPINTVL", _PEER_PROBE_S),
        ("TCP_KEEPCNT", _PEER_PROBES),
    ):
        if hasattr(socket, name):  # not everywhere
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
