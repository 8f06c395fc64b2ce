from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from rhizome.fleet.records import EventSource
from workers.event_relay import EventRelay, Frames, Ring

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

DEADLINE_MS = 10_000
END = (-1).to_bytes(8, "big", signed=True)
PATIENCE = 200


def batch(sequence: int) -> Frames:
    return b"kv", sequence.to_bytes(8, "big"), b"payload %d" % sequence


class Peers:
    """The relay's neighbours: vLLM's publisher on one side, routers on the other."""

    def __init__(self) -> None:
        self._context: Context = zmq.Context()
        self._sockets: list[Socket] = []

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(0)
        self._context.term()

    def publisher(self, relay: EventRelay, rank: int = 0) -> Socket:
        """Binds a socket file or connects to a port, as vLLM does; returns when it is heard."""
        socket = self._socket(zmq.XPUB)  # a PUB that can see who subscribes
        socket.set_hwm(0)
        endpoint = relay.engine_endpoint
        if endpoint.startswith("ipc://"):
            socket.bind(endpoint)
        else:
            base, _, port = endpoint.rpartition(":")
            socket.connect(f"{base}:{int(port) + rank}")
        assert socket.poll(DEADLINE_MS)
        assert socket.recv() == b"\x01"
        return socket

    def subscriber(self, source: EventSource, key: str | None) -> Socket:
        socket = self._socket(zmq.SUB, key)
        socket.setsockopt_string(zmq.SUBSCRIBE, source.topic)
        socket.connect(source.endpoint)
        return socket

    def asker(self, source: EventSource) -> Socket:
        socket = self._socket(zmq.DEALER, source.curve_key)
        assert source.replay_endpoint is not None
        socket.connect(source.replay_endpoint)
        return socket

    def replay(self, source: EventSource, start: int) -> list[Frames]:
        socket = self.asker(source)
        socket.send_multipart((b"", start.to_bytes(8, "big")))
        batches: list[Frames] = []
        while socket.poll(DEADLINE_MS):
            empty, topic, sequence, payload = socket.recv_multipart()
            assert empty == b""
            if sequence == END:
                return batches
            batches.append((topic, sequence, payload))
        raise AssertionError("the replay did not end")

    def replay_of(self, source: EventSource, last: int) -> list[Frames]:
        """A whole replay, once the relay has taken the batch `last`."""
        for _ in range(PATIENCE):
            batches = self.replay(source, 0)
            if batches and batches[-1] == batch(last):
                return batches
        raise AssertionError(f"the relay never had batch {last}")

    def _socket(self, kind: int, key: str | None = None) -> Socket:
        socket = self._context.socket(kind)
        self._sockets.append(socket)
        if key is not None:
            socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.curve_serverkey = key.encode()
        return socket


def send(publisher: Socket, *sequences: int) -> None:
    for sequence in sequences:
        publisher.send_multipart(batch(sequence))


@pytest.fixture
def peers() -> Iterator[Peers]:
    peers = Peers()
    yield peers
    peers.close()


@pytest.fixture
def relay() -> Iterator[EventRelay]:
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=1, ring_batches=100)
    relay.start()
    yield relay
    relay.stop()


def test_what_came_before_a_router_is_replayed_unchanged(peers: Peers, relay: EventRelay) -> None:
    send(peers.publisher(relay), *range(70))
    assert peers.replay_of(relay.sources[0], 69) == [batch(number) for number in range(70)]
    assert peers.replay(relay.sources[0], 68) == [batch(68), batch(69)]
    assert peers.replay(relay.sources[0], 70) == []


def test_live_batches_are_published_unchanged(peers: Peers, relay: EventRelay) -> None:
    source = relay.sources[0]
    engine = peers.publisher(relay)
    reader = peers.subscriber(source, source.curve_key)
    for sequence in range(PATIENCE):
        send(engine, sequence)
        if reader.poll(50):
            break
    first = reader.recv_multipart()
    send(engine, 1_000, 1_001)
    heard = [first]
    while heard[-1][1] != batch(1_001)[1]:
        assert reader.poll(DEADLINE_MS)
        heard.append(reader.recv_multipart())
    assert heard[-2:] == [list(batch(1_000)), list(batch(1_001))]
    sequences = [int.from_bytes(frames[1], "big") for frames in heard]
    assert all(before < after for before, after in pairwise(sequences))


def test_only_the_newest_batches_are_kept(peers: Peers, relay: EventRelay) -> None:
    send(peers.publisher(relay), *range(250))
    batches = peers.replay_of(relay.sources[0], 249)
    assert batches == [batch(number) for number in range(150, 250)]


def test_a_long_replay_reaches_a_slow_reader_whole(peers: Peers) -> None:
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=1, ring_batches=5_000)
    relay.start()
    send(peers.publisher(relay), *range(5_000))
    replayed = peers.replay_of(relay.sources[0], 4999)
    relay.stop()
    assert replayed == [batch(number) for number in range(5_000)]


def test_without_the_key_nothing_is_heard(peers: Peers, relay: EventRelay) -> None:
    source = relay.sources[0]
    engine = peers.publisher(relay)
    right = peers.subscriber(source, source.curve_key)
    wrong_key = zmq.curve_keypair()[0].decode()
    strangers = [peers.subscriber(source, None), peers.subscriber(source, wrong_key)]
    for sequence in range(PATIENCE):
        send(engine, sequence)
        if right.poll(50):
            break
    assert right.poll(DEADLINE_MS)
    assert not any(stranger.poll(100) for stranger in strangers)


def test_what_is_no_batch_is_dropped(peers: Peers, relay: EventRelay) -> None:
    engine = peers.publisher(relay)
    engine.send_multipart((b"kv", b"short", b"x"))
    engine.send_multipart((b"kv",))
    send(engine, 0)
    assert peers.replay_of(relay.sources[0], 0) == [batch(0)]


def test_a_malformed_replay_request_disturbs_nobody(peers: Peers, relay: EventRelay) -> None:
    send(peers.publisher(relay), 0)
    source = relay.sources[0]
    rude = peers.asker(source)
    rude.send_multipart((b"", b"not eight"))
    rude.send(b"")
    assert peers.replay_of(source, 0) == [batch(0)]


def test_every_rank_has_sockets_and_a_memory_of_its_own(peers: Peers) -> None:
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=3, ring_batches=10)
    relay.start()
    for rank in range(3):
        send(peers.publisher(relay, rank), rank)
    heard = [peers.replay_of(source, source.rank) for source in relay.sources]
    relay.stop()
    assert heard == [[batch(rank)] for rank in range(3)]
    assert [source.rank for source in relay.sources] == [0, 1, 2]
    assert len({source.endpoint for source in relay.sources}) == 3


def test_the_engines_socket_file_is_private_and_goes_with_the_relay() -> None:
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=1, ring_batches=10)
    directory = Path(relay.engine_endpoint.removeprefix("ipc://")).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    relay.start()
    relay.stop()
    relay.stop()
    assert not directory.exists()


def test_a_relay_that_was_never_started_can_be_stopped() -> None:
    relay = EventRelay("127.0.0.1", "127.0.0.1", ranks=2, ring_batches=10)
    relay.stop()
    relay.stop()


def test_a_ring_passes_over_what_was_pushed_out_while_reading() -> None:
    ring = Ring(3)
    for number in range(3):
        ring.add(number, batch(number))
    position = ring.first_from(0)
    for number in range(3, 5):
        ring.add(number, batch(number))
    assert ring.read(position, 2) == ([batch(2), batch(3)], 4)
    assert ring.read(4, 9) == ([batch(4)], 5)
    assert ring.first_from(9) == ring.end == 5
