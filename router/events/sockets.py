"""ZMQ client sockets to a worker's event endpoints, with every wait and every size bounded.

Where a worker gave a CurveZMQ key, both sides are authenticated by the handshake: an endpoint that
lacks the matching secret key never gets a frame through. The client's keys are made once per
process. A socket lives as long as one connection: it never reconnects by itself, so that frames of
two connections cannot mix.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq
import zmq.asyncio

from rhizome.fleet.records import EventSource

MESSAGE_BYTES_MAX = 16 * 2**20
"""Longest frame; a peer that sends a longer one is disconnected."""
HANDSHAKE_TIMEOUT_S = 5.0
_FRAMES_MAX = 8
_HEARTBEAT_MS = 2_000
_HEARTBEAT_TIMEOUT_MS = 6_000
_LIVE_QUEUE_MAX = 10_000
_REPLAY_QUEUE_MAX = 2_000


@dataclass(frozen=True)
class ClientKeys:
    """This process's CurveZMQ key pair."""

    public: bytes
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> ClientKeys:
        public, secret = zmq.curve_keypair()
        return cls(public, secret)


def open_live(
    context: zmq.asyncio.Context, source: EventSource, keys: ClientKeys
) -> zmq.asyncio.Socket:
    """A subscriber for the source's topic, not connected yet."""
    socket = _open(context, zmq.SUB, source, keys)
    socket.setsockopt(zmq.RCVHWM, _LIVE_QUEUE_MAX)
    socket.setsockopt(zmq.SUBSCRIBE, source.topic.encode())
    return socket


def open_replay(
    context: zmq.asyncio.Context, source: EventSource, keys: ClientKeys
) -> zmq.asyncio.Socket:
    """A DEALER for one replay, not connected yet."""
    socket = _open(context, zmq.DEALER, source, keys)
    socket.setsockopt(zmq.RCVHWM, _REPLAY_QUEUE_MAX)
    return socket


class OversizedMessage(Exception):
    """A message of more frames than any that a worker sends."""


def receive(socket: zmq.asyncio.Socket) -> list[bytes] | None:
    """The next message if one is there; raises `OversizedMessage`.

    Read without a future: a receive that is cancelled could lose the message.
    """
    plain: zmq.Socket[bytes] = zmq.Socket.shadow(socket)
    try:
        frames = [plain.recv(zmq.NOBLOCK)]
    except zmq.Again:
        return None
    while plain.getsockopt(zmq.RCVMORE):
        if len(frames) == _FRAMES_MAX:
            raise OversizedMessage(f"more than {_FRAMES_MAX} frames")
        frames.append(plain.recv(zmq.NOBLOCK))
    return frames


def _open(
    context: zmq.asyncio.Context, kind: int, source: EventSource, keys: ClientKeys
) -> zmq.asyncio.Socket:
    socket = context.socket(kind)
    try:
        _configure(socket, source, keys)
    except zmq.ZMQError:
        socket.close(0)
        raise
    return socket


def _configure(socket: zmq.asyncio.Socket, source: EventSource, keys: ClientKeys) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_BYTES_MAX)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_TIMEOUT_S * 1000))
    socket.setsockopt(zmq.CONNECT_TIMEOUT, int(HANDSHAKE_TIMEOUT_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    if source.curve_key is not None:
        socket.curve_serverkey = source.curve_key.encode()
        socket.curve_publickey = keys.public
        socket.curve_secretkey = keys.secret
