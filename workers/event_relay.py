"""Passes an engine's KV events on to routers, beside the engine and outside its process.

vLLM's publisher blocks the engine when its queue is full and forgets what nobody was there to
hear. The relay always drains it, keeps the last batches of every data-parallel rank, publishes the
frames unchanged (topic, sequence, payload) and answers vLLM's replay protocol from what it kept,
and the question for a snapshot from an image of the cache (`workers.event_image`).
Routers connect over CurveZMQ with a key made here; the engine's side is private to this host
(a socket file in a directory of mode 0700, or loopback where ranks need ports of their own).
What it passes on it does not judge: gaps and duplicates are for the reader to find.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import zmq

from rhizome.fleet.records import EventSource
from rhizome.wire.kv_events import END_OF_REPLAY, SNAPSHOT_REQUEST, encode_snapshot_end
from workers.event_image import EventImage

_log = logging.getLogger(__name__)

TOPIC = "kv"
_END = END_OF_REPLAY.to_bytes(8, "big", signed=True)
_RANK_PORTS_TRIES = 50
_REPLAY_BATCHES_PER_TURN = 64
_SNAPSHOT_PARTS_PER_TURN = 2
_REPLAYS_MAX = 256
_SNAPSHOTS_MAX = 16
"""Snapshots under way at once: each is a copy. Others wait."""
_INTAKE_PER_TURN = 256
_BUSY_POLL_MS = 5
_SOCKET_PATH_MAX = 100

Frames = tuple[bytes, bytes, bytes]
"""Topic, sequence (8 bytes, big-endian), payload."""


class Ring:
    """The newest batches of one rank in the order of arrival, at most `batches_max`."""

    def __init__(self, batches_max: int) -> None:
        self._batches: deque[tuple[int, Frames]] = deque(maxlen=batches_max)
        self._added = 0

    def add(self, sequence: int, frames: Frames) -> None:
        self._batches.append((sequence, frames))
        self._added += 1

    def first_from(self, sequence: int) -> int:
        """The position of the first kept batch whose sequence is not below `sequence`."""
        oldest = self._added - len(self._batches)
        for offset, (kept, _) in enumerate(self._batches):
            if kept >= sequence:
                return oldest + offset
        return self._added

    def read(self, position: int, count_max: int) -> tuple[list[Frames], int]:
        """Up to `count_max` batches from `position` on, and the position after them.

        Batches that were pushed out meanwhile are passed over.
        """
        oldest = self._added - len(self._batches)
        start = max(position, oldest)
        batches = [frames for _, frames in islice(self._batches, start - oldest, None)][:count_max]
        return batches, start + len(batches)

    @property
    def end(self) -> int:
        """The position after the newest batch."""
        return self._added


class _Answer:
    """Messages to one client, a few in each turn; one that reads slowly holds up nobody."""

    def __init__(self, messages: Iterator[tuple[bytes, ...] | None], per_turn: int) -> None:
        """None among the messages ends a turn."""
        self._messages = messages
        self._per_turn = per_turn
        self._unsent: tuple[bytes, ...] | None = None

    def send(self, socket: zmq.Socket[bytes], client: bytes) -> bool:
        """Sends what can be sent in this turn; whether all is sent. Raises `zmq.ZMQError` if the
        client is gone."""
        for _ in range(self._per_turn):
            if self._unsent is None:
                try:
                    self._unsent = next(self._messages)
                except StopIteration:
                    return True
            if self._unsent is None:
                return False
            try:
                socket.send_multipart((client, b"", *self._unsent), zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._unsent = None
        return False


@dataclass(slots=True)
class _Rank:
    """The sockets and the memory of one data-parallel rank."""

    intake: zmq.Socket[bytes]
    out: zmq.Socket[bytes]
    replay: zmq.Socket[bytes]
    ring: Ring
    image: EventImage = field(default_factory=EventImage)
    answers: dict[bytes, _Answer] = field(default_factory=dict)
    """What is being sent, by client; a new question of a client replaces the old one."""
    snapshots: int = 0
    """Snapshots being sent."""
    refused: int = 0
    """Messages of the engine that were not batches."""


class EventRelay:
    """The relay of one engine; runs in its own thread between `start` and `stop`."""

    def __init__(self, host: str, advertised_host: str, ranks: int, ring_batches: int) -> None:
        """Binds its sockets at once; raises `zmq.ZMQError` where it cannot."""
        self._directory = _private_directory()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._public_key, self._secret_key = zmq.curve_keypair()
        self._wake_out = self._context.socket(zmq.PAIR)
        self._wake_in = self._context.socket(zmq.PAIR)
        self._wake_in.bind("inproc://wake")
        self._wake_out.connect("inproc://wake")
        with ExitStack() as undo:
            undo.callback(self._close_all)
            self.engine_endpoint, intakes = self._intakes(ranks)
            self._ranks = [
                _Rank(
                    intake=intake,
                    out=self._server(zmq.PUB, host, ring_batches),
                    replay=self._server(zmq.ROUTER, host, _REPLAY_BATCHES_PER_TURN * 2),
                    ring=Ring(ring_batches),
                )
                for intake in intakes
            ]
            undo.pop_all()
        self.sources = tuple(
            EventSource(
                endpoint=_endpoint(rank.out, advertised_host),
                replay_endpoint=_endpoint(rank.replay, advertised_host),
                topic=TOPIC,
                rank=number,
                curve_key=self._public_key.decode(),
                snapshots=True,
            )
            for number, rank in enumerate(self._ranks)
        )
        """Where routers read, one per rank."""
        self._thread = threading.Thread(target=self._run, name="kv-event-relay", daemon=True)

    def publisher_config(self) -> dict[str, Any]:
        """vLLM's `--kv-events-config` for the engine whose events this relay takes."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self.engine_endpoint,
            "topic": TOPIC,
        }

    def expect_blocks(self, blocks: int | None) -> None:
        """Tells how many blocks each rank's device can hold: the bound on what is kept of it."""
        for rank in self._ranks:
            rank.image.blocks_max = blocks

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and closes all sockets; may be called more than once."""
        if self._thread.is_alive():
            self._wake_out.send(b"")
            self._thread.join()
        elif not self._context.closed:
            self._close_all()

    def _intakes(self, ranks: int) -> tuple[str, list[zmq.Socket[bytes]]]:
        """The endpoint to give to vLLM, and a subscriber per rank.

        vLLM binds a socket file itself. For several ranks it counts ports up from the one that it
        is given, and connects to them since they are bound here.
        """
        if ranks == 1:
            endpoint = f"ipc://{self._directory / 'events'}"
            intake = self._subscriber()
            intake.setsockopt(zmq.RECONNECT_IVL, 20)
            intake.connect(endpoint)
            return endpoint, [intake]
        for _ in range(_RANK_PORTS_TRIES):
            intakes = [self._subscriber() for _ in range(ranks)]
            try:
                port = intakes[0].bind_to_random_port("tcp://127.0.0.1")
                for number, intake in enumerate(intakes[1:], start=1):
                    intake.bind(f"tcp://127.0.0.1:{port + number}")
            except zmq.ZMQError:
                for intake in intakes:
                    intake.close(0)
            else:
                return f"tcp://127.0.0.1:{port}", intakes
        raise zmq.ZMQError(zmq.EADDRINUSE, f"found no {ranks} free ports in a row")

    def _subscriber(self) -> zmq.Socket[bytes]:
        intake = self._context.socket(zmq.SUB)
        intake.setsockopt(zmq.RCVHWM, 0)
        intake.setsockopt(zmq.SUBSCRIBE, b"")
        return intake

    def _server(self, kind: int, host: str, messages_max: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.SNDHWM, messages_max)
        socket.setsockopt(zmq.LINGER, 0)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if ":" in host:
            socket.setsockopt(zmq.IPV6, 1)
        socket.curve_secretkey = self._secret_key
        socket.curve_publickey = self._public_key
        socket.curve_server = True
        socket.bind(f"tcp://{_bracketed(host)}:*")
        return socket

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_in, zmq.POLLIN)
        for rank in self._ranks:
            poller.register(rank.intake, zmq.POLLIN)
            poller.register(rank.replay, zmq.POLLIN)
        with self._closing():
            while True:
                behind = any(rank.answers for rank in self._ranks)
                ready = dict(poller.poll(_BUSY_POLL_MS if behind else None))
                if self._wake_in in ready:
                    return
                for rank in self._ranks:
                    if rank.intake in ready:
                        _take(rank)
                    if rank.replay in ready:
                        _accept_question(rank)
                    _send_answers(rank)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._close_all()

    def _close_all(self) -> None:
        self._context.destroy(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)


def _take(rank: _Rank) -> None:
    for _ in range(_INTAKE_PER_TURN):
        try:
            frames = rank.intake.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        if len(frames) != 3 or len(frames[1]) != 8:
            rank.refused += 1
            if rank.refused == 1:
                _log.warning("the engine published something that is no KV event batch")
            continue
        topic, sequence, payload = frames
        number = int.from_bytes(sequence, "big")
        rank.ring.add(number, (topic, sequence, payload))
        rank.out.send_multipart(frames)
        rank.image.take(number, payload)


def _accept_question(rank: _Rank) -> None:
    try:
        frames = rank.replay.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return
    if len(frames) != 3 or len(frames[2]) != 8 or len(rank.answers) >= _REPLAYS_MAX:
        _log.warning("refused a replay request of %d frames", len(frames))
        return
    client, _, question = frames
    if question == SNAPSHOT_REQUEST:
        answer = _Answer(_snapshot(rank), _SNAPSHOT_PARTS_PER_TURN)
    else:
        position = rank.ring.first_from(int.from_bytes(question, "big"))
        replayed = _replay(rank.ring, position, rank.ring.end)
        answer = _Answer(replayed, _REPLAY_BATCHES_PER_TURN)
    rank.answers[client] = answer


def _send_answers(rank: _Rank) -> None:
    for client, answer in list(rank.answers.items()):
        try:
            is_sent = answer.send(rank.replay, client)
        except zmq.ZMQError as error:
            _log.debug("an answer ended early: %s", error)
            is_sent = True
        if is_sent:
            del rank.answers[client]


def _replay(ring: Ring, position: int, end: int) -> Iterator[tuple[bytes, ...]]:
    """What the ring keeps, as far as it is still there when its turn comes."""
    while position < end:
        count = min(_REPLAY_BATCHES_PER_TURN, end - position)
        batches, position = ring.read(position, count)
        yield from batches
    yield b"", _END, b""


def _snapshot(rank: _Rank) -> Iterator[tuple[bytes, ...] | None]:
    """The cache as it is when the first part is asked for."""
    while rank.snapshots >= _SNAPSHOTS_MAX:
        yield None
    rank.snapshots += 1
    try:
        snapshot = rank.image.snapshot()
        parts = 0
        for payload in snapshot.parts():
            if payload is None:
                yield None
            else:
                yield SNAPSHOT_REQUEST, parts.to_bytes(8, "big"), payload
                parts += 1
        yield b"", _END, encode_snapshot_end(snapshot.end(parts))
    finally:
        rank.snapshots -= 1


def _endpoint(socket: zmq.Socket[bytes], advertised_host: str) -> str:
    bound = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return f"tcp://{_bracketed(advertised_host)}:{bound.rpartition(':')[2]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _private_directory() -> Path:
    """A new directory of mode 0700 whose path leaves room for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="rhizome-"))
    if len(str(directory)) <= _SOCKET_PATH_MAX - len("/events"):
        return directory
    directory.rmdir()
    return Path(tempfile.mkdtemp(prefix="rhizome-", dir="/tmp"))
