"""One replay: vLLM's protocol over a DEALER, read in small portions against a deadline.

Asked is `[b"", first sequence]`; the answers are `[b"", topic, sequence, payload]` each and
`[b"", b"", -1, b""]` at the end. Sequences are 8 bytes, big-endian. A ROUTER that is sent more
than it can queue drops messages in silence, the end among them; hence the deadline on silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq
import zmq.asyncio

from rhizome.fleet.records import EventSource
from rhizome.wire.kv_events import END_OF_REPLAY
from router.events.sockets import ClientKeys, open_replay

SILENCE_S = 5.0
"""Longest wait for the next message."""
TOTAL_S = 60.0
"""Longest replay."""
BYTES_MAX = 2**30
"""Most bytes of one replay."""


class ReplayBroken(Exception):
    """The replay cannot be finished; its text says why."""


class Replay:
    """An exchange with a replay endpoint; `close` it in every case."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        source: EventSource,
        keys: ClientKeys,
        start: int,
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
            zmq.Socket.shadow(self.socket).send_multipart(
                (b"", start.to_bytes(8, "big")), zmq.NOBLOCK
            )
        except zmq.ZMQError as error:
            self.socket.close(0)
            raise ReplayBroken(str(error)) from error

    @property
    def deadline_s(self) -> float:
        """When to give up if nothing comes."""
        return min(self._total_until_s, self._silent_until_s)

    def read(self, frames: Sequence[bytes], now_s: float) -> tuple[int, bytes] | None:
        """The sequence and payload in a message; None at the end. Raises `ReplayBroken`."""
        self._silent_until_s = now_s + SILENCE_S
        self._bytes += sum(map(len, frames))
        if self._bytes > BYTES_MAX:
            raise ReplayBroken(f"more than {BYTES_MAX} bytes")
        if len(frames) != 4 or frames[0] or len(frames[2]) != 8:
            raise ReplayBroken("a message that is not of the replay protocol")
        sequence = int.from_bytes(frames[2], "big", signed=True)
        if sequence == END_OF_REPLAY:
            return None
        if sequence < 0:
            raise ReplayBroken(f"the sequence {sequence}")
        return sequence, frames[3]

    def close(self) -> None:
        self.socket.close(0)
