"""One rank's events: from sockets to the feed, with bounded work per turn of the loop.

A connection is a session: a fresh subscriber socket and its monitor; when the monitor says that it
ended, the feed is told, and after a pause there is a new session. A replay or a snapshot is asked
for as soon as the subscription stands, and the feed decides what to believe (see
`router.prefix.feed`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from rhizome.clock import Clock
from rhizome.fleet.records import EventSource
from rhizome.wire.kv_events import KVEventBatch, UndecodableBatch, decode_batch
from router.events.replay import Replay, ReplayBroken, Snapshot
from router.events.sockets import (
    HANDSHAKE_TIMEOUT_S,
    ClientKeys,
    OversizedMessage,
    open_live,
    receive,
)
from router.prefix.feed import Action, EventFeed

_log = logging.getLogger(__name__)

_ENDED = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_MESSAGES_PER_TURN = 64
_BYTES_PER_TURN = 64 * 1024
"""Some thousand blocks, which take some milliseconds."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The waits of a subscription, in seconds."""

    pause_s: float = 0.25
    """Before the first new attempt after a session ended; doubled up to `pause_s_max`."""
    pause_s_max: float = 5.0
    silence_s: float = 2.0
    """Silence after a connection or a batch; then the engine is asked whether that was the last
    one: only a later batch would show that one was lost."""
    check_s: float = 30.0
    """Between two such questions while the silence lasts."""


@dataclass(slots=True)
class LinkCounters:
    """What came over the sockets; every number but the lag only grows."""

    messages: int = 0
    malformed: int = 0
    """Messages that are not of vLLM's frames, or were too long."""
    foreign: int = 0
    """Batches of another data-parallel rank than those before: another engine's, not believed."""
    sessions: int = 0
    """Connections that stood."""
    lag_ms: float = 0.0
    """From the engine's time stamp to ours, of the last live batch."""


class _SessionEnded(Exception):
    """The connection is gone or unusable; its text says why."""


class Subscription:
    """Keeps one feed fed; `run` ends only when cancelled."""

    def __init__(
        self,
        source: EventSource,
        feed: EventFeed,
        context: zmq.asyncio.Context,
        keys: ClientKeys,
        clock: Clock,
        timing: Timing | None = None,
    ) -> None:
        self.source = source
        self.feed = feed
        self.counters = LinkCounters()
        self._context = context
        self._keys = keys
        self._clock = clock
        self._timing = timing or Timing()
        self._replay: Replay | Snapshot | None = None
        self._connected = False
        self._rank: int | None = None
        self._check_at_s = 0.0
        self._poller = zmq.asyncio.Poller()

    @property
    def connected(self) -> bool:
        """Whether a connection stands, authenticated where the source gave a key."""
        return self._connected

    async def run(self) -> None:
        """Session after session."""
        pause_s = self._timing.pause_s
        told = ""
        while True:
            stood = self.counters.sessions
            try:
                await self._session()
            except (_SessionEnded, zmq.ZMQError) as end:
                # Not when cancelled: by then the target may belong to a new incarnation.
                if self._connected:
                    self._connected = False
                    self._rank = None
                    self.feed.disconnected()
                if str(end) != told:
                    told = str(end)
                    _log.info(
                        "events of %s at %s: %s", self.feed.target, self.source.endpoint, told
                    )
            if self.counters.sessions > stood:
                pause_s, told = self._timing.pause_s, ""
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, self._timing.pause_s_max)

    async def _session(self) -> None:
        self._poller = zmq.asyncio.Poller()
        live = open_live(self._context, self.source, self._keys)
        monitor = live.get_monitor_socket()
        try:
            live.connect(self.source.endpoint)
            self._poller.register(live, zmq.POLLIN)
            self._poller.register(monitor, zmq.POLLIN)
            await self._listen(live, monitor)
        finally:
            self._close_replay()
            live.disable_monitor()
            monitor.close(0)
            live.close(0)

    async def _listen(self, live: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket) -> None:
        give_up_s = self._clock.monotonic_s() + 2 * HANDSHAKE_TIMEOUT_S
        while True:
            ready = dict(await self._poller.poll(self._wait_ms(give_up_s)))
            if monitor in ready:
                self._read_monitor(monitor)
            if self._replay is not None and self._replay.socket in ready:
                self._read_replay(self._replay)
            if live in ready:
                self._read_live(live)
            self._check_deadlines(give_up_s)
            # A worker that floods us is read in portions, with a turn for everybody in between.
            await self._clock.sleep(0)

    def _wait_ms(self, give_up_s: float) -> int:
        if not self._connected:
            until_s = give_up_s
        elif self._replay is not None:
            until_s = self._replay.deadline_s
        else:
            until_s = self._check_at_s
        return max(0, int((until_s - self._clock.monotonic_s()) * 1000) + 1)

    def _check_deadlines(self, give_up_s: float) -> None:
        now_s = self._clock.monotonic_s()
        if not self._connected:
            if now_s >= give_up_s:
                raise _SessionEnded("no connection within the deadline")
        elif self._replay is not None:
            if now_s >= self._replay.deadline_s:
                self._end_replay("no answer within the deadline")
        elif now_s >= self._check_at_s:
            self._check_at_s = now_s + self._timing.check_s
            self._carry_out(self.feed.check())

    # ---------------------------------------------------------------- reading

    def _read_monitor(self, monitor: zmq.asyncio.Socket) -> None:
        while (frames := receive(monitor)) is not None:
            event = parse_monitor_message(frames)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._connected = True
                self.counters.sessions += 1
                self._check_at_s = self._clock.monotonic_s() + self._timing.silence_s
                self._carry_out(self.feed.connected())
            elif event & _ENDED:
                raise _SessionEnded("the connection ended" if self._connected else "no connection")

    def _read_live(self, live: zmq.asyncio.Socket) -> None:
        portion = 0
        for _ in range(_MESSAGES_PER_TURN):
            frames = self._receive(live)
            if frames is None:
                return
            self._take_live(frames)
            portion += sum(map(len, frames))
            if portion > _BYTES_PER_TURN:
                return

    def _take_live(self, frames: list[bytes]) -> None:
        now_s = self._clock.monotonic_s()
        self.counters.messages += 1
        self._check_at_s = now_s + self._timing.silence_s
        if len(frames) != 3 or len(frames[1]) != 8:
            self.counters.malformed += 1
            return
        batch = _decoded(frames[2])
        if batch is not None and not self._is_ours(batch):
            self.counters.foreign += 1
            return
        if batch is not None:
            self.counters.lag_ms = max(0.0, (self._clock.wall_s() - batch.ts) * 1000)
        self._carry_out(self.feed.live(int.from_bytes(frames[1], "big"), batch))

    def _is_ours(self, batch: KVEventBatch) -> bool:
        """Whether it comes from the rank that spoke first; each engine's publisher has one, which
        need not be the rank that the worker's record gives it."""
        rank = batch.data_parallel_rank
        if self._rank is None:
            self._rank = rank
        return rank is None or rank == self._rank

    def _read_replay(self, replay: Replay | Snapshot) -> None:
        portion = 0
        for _ in range(_MESSAGES_PER_TURN):
            if portion > _BYTES_PER_TURN or self._replay is not replay:
                return
            frames = self._receive(replay.socket)
            if frames is None:
                return
            portion += sum(map(len, frames))
            try:
                self._take_answer(replay, frames)
            except ReplayBroken as broken:
                self.counters.malformed += 1
                self._end_replay(str(broken))
                return

    def _take_answer(self, replay: Replay | Snapshot, frames: list[bytes]) -> None:
        """Tells the feed of one message; raises `ReplayBroken`."""
        now_s = self._clock.monotonic_s()
        if isinstance(replay, Snapshot):
            part = replay.read(frames, now_s)
            if isinstance(part, bytes):
                self._carry_out(self.feed.imaged(_decoded(part)))
                return
            self._close_replay()
            self._carry_out(self.feed.snapshot_ended(part.sequence, part.ts))
            return
        answer = replay.read(frames, now_s)
        if answer is None:
            self._close_replay()
            self._carry_out(self.feed.replay_ended())
        else:
            self._carry_out(self.feed.replayed(answer[0], _decoded(answer[1])))

    def _receive(self, socket: zmq.asyncio.Socket) -> list[bytes] | None:
        try:
            return receive(socket)
        except OversizedMessage as error:
            self.counters.malformed += 1
            raise _SessionEnded(str(error)) from error

    # ---------------------------------------------------------------- replays

    def _carry_out(self, action: Action) -> None:
        """Asks what the feed wants to know, in place of an earlier question."""
        while action.asks:
            self._close_replay()
            try:
                self._replay = self._question(action)
            except ReplayBroken as broken:
                _log.warning("replay for %s: %s", self.feed.target, broken)
                action = self._failed(snapshot=action.snapshot)
            else:
                self._poller.register(self._replay.socket, zmq.POLLIN)
                return

    def _question(self, action: Action) -> Replay | Snapshot:
        now_s = self._clock.monotonic_s()
        if action.replay_from is None:
            return Snapshot(self._context, self.source, self._keys, now_s)
        return Replay(self._context, self.source, self._keys, action.replay_from, now_s)

    def _failed(self, *, snapshot: bool) -> Action:
        return self.feed.snapshot_failed() if snapshot else self.feed.replay_failed()

    def _end_replay(self, why: str) -> None:
        _log.warning("replay for %s failed: %s", self.feed.target, why)
        snapshot = isinstance(self._replay, Snapshot)
        self._close_replay()
        self._carry_out(self._failed(snapshot=snapshot))

    def _close_replay(self) -> None:
        if self._replay is not None:
            if self._replay.socket in self._poller:
                self._poller.unregister(self._replay.socket)
            self._replay.close()
            self._replay = None


def _decoded(payload: bytes) -> KVEventBatch | None:
    """The batch; None if it cannot be read, which the feed counts."""
    try:
        return decode_batch(payload)
    except UndecodableBatch as error:
        _log.debug("undecodable batch: %s", error)
        return None
