"""One question to a replay endpoint, over a DEALER, read in small portions against a deadline.

*A replay* is vLLM's protocol: asked is `[b"", first sequence]`; the answers are
`[b"", topic, sequence, payload]` each and `[b"", b"", -1, b""]` at the end. Sequences are 8 bytes,
big-endian. *A snapshot* is an event relay's (`SNAPSHOT_REQUEST`). A ROUTER that is sent more than
it can queue drops messages in silence, the end among them; hence the deadline on silence, and the
count of a snapshot's parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq
import zmq.asyncio

from rhizome.fleet.records import EventSource
from rhizome.wire.kv_events import (
    END_OF_REPLAY,
    SNAPSHOT_REQUEST,
    SnapshotEnd,
    UndecodableBatch,
    decode_snapshot_end,
)
from router.events.sockets import ClientKeys, open_replay

SILENCE_S = 5.0
"""Longest wait for the next message."""
TOTAL_S = 60.0
"""Longest replay."""
BYTES_MAX = 2**30
"""Most bytes of one replay."""


class ReplayBroken(Exception):
    """The replay cannot be finished; its text says why."""


class Exchange:
    """A question and what is answered to it; `close` it in every case."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        source: EventSource,
        keys: ClientKeys,
        question: bytes,
        now_s: float,
    ) -> None:
        if source.replay_endpoint is None:
            raise ValueError("the source has no replay endpoint")
        self._total_until_s = now_s + TOTAL_S
        self._silent_until_s = now_s + SILENCE_S
        self._bytes = 0
        self.socket = open_replay(context, source, keys)
        try:
            self.socket.connect(source.replay_endpoint)
            zmq.Socket.shadow(self.socket).send_multipart((b"", question), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self.socket.close(0)
            raise ReplayBroken(str(error)) from error

    @property
    def deadline_s(self) -> float:
        """When to give up if nothing comes."""
        return min(self._total_until_s, self._silent_until_s)

    def close(self) -> None:
        self.socket.close(0)

    def _parted(self, frames: Sequence[bytes], now_s: float) -> tuple[int, bytes, bytes]:
        """The number, topic and payload of a message."""
        self._silent_until_s = now_s + SILENCE_S
        self._bytes += sum(map(len, frames))
        if self._bytes > BYTES_MAX:
            raise ReplayBroken(f"more than {BYTES_MAX} bytes")
        if len(frames) != 4 or frames[0] or len(frames[2]) != 8:
            raise ReplayBroken("a message that is not of the replay protocol")
        number = int.from_bytes(frames[2], "big", signed=True)
        if number < 0 and number != END_OF_REPLAY:
            raise ReplayBroken(f"the sequence {number}")
        return number, frames[1], frames[3]


class Replay(Exchange):
    """Batches that were published before."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        source: EventSource,
        keys: ClientKeys,
        start: int,
        now_s: float,
    ) -> None:
        super().__init__(context, source, keys, start.to_bytes(8, "big"), now_s)

    def read(self, frames: Sequence[bytes], now_s: float) -> tuple[int, bytes] | None:
        """The sequence and payload in a message; None at the end. Raises `ReplayBroken`."""
        number, _, payload = self._parted(frames, now_s)
        return None if number == END_OF_REPLAY else (number, payload)


class Snapshot(Exchange):
    """What the engine holds now."""

    def __init__(
        self, context: zmq.asyncio.Context, source: EventSource, keys: ClientKeys, now_s: float
    ) -> None:
        super().__init__(context, source, keys, SNAPSHOT_REQUEST, now_s)
        self._parts = 0

    def read(self, frames: Sequence[bytes], now_s: float) -> bytes | SnapshotEnd:
        """A part's payload, or the end. Raises `ReplayBroken`."""
        number, topic, payload = self._parted(frames, now_s)
        if number == END_OF_REPLAY:
            try:
                end = decode_snapshot_end(payload)
            except UndecodableBatch as error:
                raise ReplayBroken(f"no snapshot: {error}") from error
            if end.parts != self._parts:
                raise ReplayBroken(f"{self._parts} of {end.parts} parts of a snapshot")
            return end
        if topic != SNAPSHOT_REQUEST or number != self._parts:
            raise ReplayBroken("a message that is not the snapshot's next part")
        self._parts += 1
        return payload
