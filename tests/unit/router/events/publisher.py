"""A publisher that speaks vLLM's frames and replay protocol on loopback, in its own thread."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import Self

import zmq

from rhizome.fleet.records import EventSource
from rhizome.wire.kv_events import KVEvent, KVEventBatch, encode_batch

_END = (-1).to_bytes(8, "big", signed=True)


class Publisher:
    """`publish` sends a batch and keeps it; `keep` does not send it, as if it had been lost."""

    def __init__(
        self,
        *,
        curve: bool = False,
        port: int | None = None,
        replay_port: int | None = None,
        ring_max: int = 10_000,
        first_ts: float = 0.0,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._lock = threading.Lock()
        self._public: bytes | None = None
        self._secret: bytes | None = None
        if curve:
            self._public, self._secret = zmq.curve_keypair()
        self._out = self._socket(zmq.PUB)
        self._replay = self._socket(zmq.ROUTER)
        self.port = _bind(self._out, port)
        self.replay_port = _bind(self._replay, replay_port)
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=ring_max)
        self._next = 0
        self._ts = first_ts
        self._stop = threading.Event()
        self.replays: list[int] = []
        self.drop_in_replay: set[int] = set()
        self.silent = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def source(self, *, replay: bool = True, curve_key: str | None = None) -> EventSource:
        """The record by which a router finds this publisher."""
        return EventSource(
            endpoint=f"tcp://127.0.0.1:{self.port}",
            replay_endpoint=f"tcp://127.0.0.1:{self.replay_port}" if replay else None,
            topic="kv",
            curve_key=curve_key or (self._public.decode() if self._public else None),
        )

    def publish(self, *events: KVEvent) -> None:
        self.send_frames(b"kv", *self.keep(*events))

    def keep(self, *events: KVEvent) -> tuple[bytes, bytes]:
        with self._lock:
            self._ts += 1.0
            payload = encode_batch(KVEventBatch(ts=self._ts, events=list(events)))
            return self._keep(payload)

    def keep_payload(self, payload: bytes) -> tuple[bytes, bytes]:
        with self._lock:
            return self._keep(payload)

    def send_frames(self, *frames: bytes) -> None:
        with self._lock:
            self._out.send_multipart(frames)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _keep(self, payload: bytes) -> tuple[bytes, bytes]:
        sequence = self._next
        self._next += 1
        self._ring.append((sequence, payload))
        return sequence.to_bytes(8, "big"), payload

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        if self._public is not None:
            socket.curve_server = True
            socket.curve_publickey = self._public
            socket.curve_secretkey = self._secret
        return socket

    def _serve(self) -> None:
        while not self._stop.is_set():
            if not self._replay.poll(20):
                continue
            client, _, start = self._replay.recv_multipart()
            self.replays.append(int.from_bytes(start, "big"))
            if self.silent:
                continue
            with self._lock:
                kept = [one for one in self._ring if one[0] >= self.replays[-1]]
            for sequence, payload in kept:
                if sequence not in self.drop_in_replay:
                    frames = (client, b"", b"kv", sequence.to_bytes(8, "big"), payload)
                    self._replay.send_multipart(frames)
            self.drop_in_replay.clear()
            self._replay.send_multipart((client, b"", b"", _END, b""))


def _bind(socket: zmq.Socket[bytes], port: int | None) -> int:
    if port is None:
        return socket.bind_to_random_port("tcp://127.0.0.1")
    socket.bind(f"tcp://127.0.0.1:{port}")
    return port
