"""Publishes the simulated cache's events as vLLM does: PUB with sequences, ROUTER for replay.

One publisher per data-parallel rank. It never blocks: what nobody hears is kept for replay, up to
a bound. With `curve`, both sockets are CurveZMQ servers under one key pair made here. Faults may be
set on what goes out; what they take away can still be replayed, as if it were lost on its way.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zmq
import zmq.asyncio

from rhizome.clock import Clock
from rhizome.errors import EngineFailed
from rhizome.fleet.records import EventSource
from rhizome.wire.kv_events import END_OF_REPLAY, KVEvent, KVEventBatch, encode_batch

_END = END_OF_REPLAY.to_bytes(8, "big", signed=True)
HWM = 100_000


@dataclass(frozen=True, slots=True)
class EventPlace:
    """Where a worker's events are published; ports 0 take free ones."""

    host: str
    advertised_host: str
    topic: str = "kv"
    port: int = 0
    replay_port: int = 0
    curve: bool = False
    kept_batches: int = 10_000


@dataclass(slots=True)
class EventFaults:
    """What goes wrong with the next batches on their way out."""

    drop: int = 0
    duplicate: int = 0
    reorder: int = 0
    """Batches that are sent after the one that follows them."""


class Publisher:
    """One rank's event stream."""

    def __init__(self, place: EventPlace, rank: int, clock: Clock) -> None:
        """Binds at once; raises `EngineFailed` where it cannot."""
        self._place = place
        self._rank = rank
        self._clock = clock
        self._topic = place.topic.encode()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._keys = zmq.curve_keypair() if place.curve else None
        self.faults = EventFaults()
        self._late: list[bytes] | None = None
        self.sequence = 0
        """Of the next batch."""
        self.kept: deque[tuple[int, bytes]] = deque(maxlen=place.kept_batches)
        self._out = self._context.socket(zmq.PUB)
        self._replay = zmq.asyncio.Context.shadow(self._context).socket(zmq.ROUTER)
        try:
            self._bind(self._out, place.port)
            self._bind(self._replay, place.replay_port)
        except zmq.ZMQError as error:
            self.close()
            raise EngineFailed(f"cannot open the KV event sockets: {error}") from error
        self.source = EventSource(
            endpoint=self._endpoint(self._out),
            replay_endpoint=self._endpoint(self._replay),
            topic=place.topic,
            rank=rank,
            curve_key=self._keys[0].decode() if self._keys else None,
        )

    def publish(self, events: Sequence[KVEvent]) -> None:
        """Sends one batch."""
        batch = KVEventBatch(
            ts=self._clock.wall_s(), events=list(events), data_parallel_rank=self._rank
        )
        payload = encode_batch(batch)
        self.kept.append((self.sequence, payload))
        frames = [self._topic, self.sequence.to_bytes(8, "big"), payload]
        self.sequence += 1
        self._send(frames)

    async def answer_replays(self) -> None:
        """Serves the replay protocol until cancelled."""
        while True:
            frames = await self._replay.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            client, _, start = frames
            first = int.from_bytes(start, "big", signed=True)
            for sequence, payload in tuple(self.kept):
                if sequence >= first:
                    number = sequence.to_bytes(8, "big")
                    await self._replay.send_multipart([client, b"", self._topic, number, payload])
            await self._replay.send_multipart([client, b"", b"", _END, b""])

    def restart(self) -> None:
        """Begins again at sequence 0 with nothing kept; subscribers stay connected."""
        self.sequence = 0
        self.kept.clear()
        self._late = None

    def close(self) -> None:
        """Closes the sockets; may be called more than once."""
        self._out.close(linger=0)
        self._replay.close(linger=0)
        self._context.term()

    def _send(self, frames: list[bytes]) -> None:
        faults = self.faults
        if faults.drop:
            faults.drop -= 1
            return
        if self._late is None and faults.reorder:
            faults.reorder -= 1
            self._late = frames
            return
        copies = 1
        if faults.duplicate:
            faults.duplicate -= 1
            copies = 2
        late, self._late = self._late, None
        for each in [*[frames] * copies, *([late] if late else [])]:
            with contextlib.suppress(zmq.Again):  # nobody takes it: it stays for replay
                self._out.send_multipart(each, zmq.DONTWAIT)

    def _bind(self, socket: zmq.Socket[Any], port: int) -> None:
        socket.linger = 0
        socket.sndhwm = HWM
        if self._keys:
            socket.curve_publickey, socket.curve_secretkey = self._keys
            socket.curve_server = True
        host = self._place.host
        if ":" in host:
            socket.ipv6 = True
            host = f"[{host}]"
        socket.bind(f"tcp://{host}:{port or '*'}")

    def _endpoint(self, socket: zmq.Socket[Any]) -> str:
        port = socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2]
        host = self._place.advertised_host
        return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
