"""Whatever the transport does to the batches, credit is never given for what an engine lacks."""

from __future__ import annotations

from collections import deque
from itertools import takewhile

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rhizome.wire.kv_events import KVEventBatch, SnapshotEnd, decode_batch
from router.prefix.feed import Action, EventFeed, FeedLimits
from router.prefix.hashing import extend_chain, root_hash
from tests.property.engine_model import BLOCK, EngineModel
from tests.unit.router.prefix.events_told import TARGET, RememberedTruth
from workers.event_image import Snapshot

# Prompts over three token pairs share prefixes often; up to five blocks against a cache of eight
# evicts often, and half of them end at a block's border, where vLLM computes a block twice.
PROMPTS = st.lists(
    st.builds(
        lambda pairs, odd: [token for pair in pairs for token in (pair, pair)] + [9] * odd,
        st.lists(st.integers(1, 3), min_size=1, max_size=5),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=2,
)
CACHE = 11


class LossyTransport(RuleBasedStateMachine):
    """An engine, a feed, and between them a network that loses, repeats and reorders."""

    @initialize(
        ring=st.integers(1, 40),
        held=st.integers(1, 4),
        can_replay=st.booleans(),
        can_snapshot=st.booleans(),
    )
    def begin(self, ring: int, held: int, can_replay: bool, can_snapshot: bool) -> None:
        self.engine = EngineModel(blocks_max=CACHE, ring_max=ring)
        self.truth = RememberedTruth()
        self.feed = EventFeed(
            TARGET,
            self.truth,
            block_size=BLOCK,
            blocks_max=CACHE,
            can_replay=can_replay,
            can_snapshot=can_snapshot,
            limits=FeedLimits(held_batches_max=held),
        )
        self.late: deque[tuple[int, KVEventBatch]] = deque(maxlen=8)
        self.replay: deque[tuple[int, KVEventBatch]] | None = None
        self.snapshot: tuple[deque[KVEventBatch], SnapshotEnd] | None = None
        self.newest = -1
        self._do(self.feed.connected())

    @rule(prompts=PROMPTS, fate=st.sampled_from(["arrives"] * 3 + ["lost", "late", "twice"]))
    def serve(self, prompts: list[list[int]], fate: str) -> None:
        published = self.engine.serve(prompts)
        if published is None:
            return
        self._travel(published, fate)

    @rule(fate=st.sampled_from(["arrives", "lost"]))
    def reset(self, fate: str) -> None:
        self._travel(self.engine.reset(), fate)

    @rule()
    @precondition(lambda self: self.late)
    def deliver_late(self) -> None:
        self._live(*self.late.popleft())

    @rule(count=st.integers(1, 6))
    @precondition(lambda self: self.replay)
    def some_replayed(self, count: int) -> None:
        for _ in range(count):
            if self.replay:
                self._do(self.feed.replayed(*self.replay.popleft()))

    @rule(hole=st.sampled_from([False, False, True]))
    @precondition(lambda self: self.replay is not None)
    def replay_completes(self, hole: bool) -> None:
        assert self.replay is not None
        if hole and self.replay:
            self.replay.popleft()
        mine = self.replay
        while mine and self.replay is mine:
            self._do(self.feed.replayed(*mine.popleft()))
        if self.replay is mine:
            self.replay = None
            self._do(self.feed.replay_ended())

    @rule()
    @precondition(lambda self: self.replay is not None)
    def replay_fails(self) -> None:
        self.replay = None
        self._do(self.feed.replay_failed())

    @rule()
    @precondition(lambda self: self.snapshot is not None)
    def a_part_of_the_snapshot(self) -> None:
        assert self.snapshot is not None
        if self.snapshot[0]:
            self._do(self.feed.imaged(self.snapshot[0].popleft()))

    @rule()
    @precondition(lambda self: self.snapshot is not None)
    def snapshot_completes(self) -> None:
        assert self.snapshot is not None
        parts, end = self.snapshot
        for part in parts:
            self._do(self.feed.imaged(part))
        self.snapshot = None
        self._do(self.feed.snapshot_ended(end.sequence, end.ts))

    @rule(unreadable=st.booleans())
    @precondition(lambda self: self.snapshot is not None)
    def snapshot_fails(self, unreadable: bool) -> None:
        self.snapshot = None
        self._do(self.feed.imaged(None) if unreadable else self.feed.snapshot_failed())

    @rule()
    def check(self) -> None:
        self._do(self.feed.check())

    @rule(restarts=st.booleans(), meanwhile=st.lists(PROMPTS, max_size=12))
    def connection_lost_and_back(self, restarts: bool, meanwhile: list[list[list[int]]]) -> None:
        self.late.clear()
        self.replay = self.snapshot = None
        self.newest = -1
        self._do(self.feed.disconnected())
        if restarts:
            self.engine.restart()
        for prompts in meanwhile:
            self.engine.serve(prompts)
        self._do(self.feed.connected())

    @invariant()
    def nothing_is_credited_that_the_engine_lacks(self) -> None:
        self.feed.blocks.check_invariants()
        if self.truth.suspended or not self.truth.blocks:
            return
        reached = self.feed.next_sequence
        assert reached is not None
        assert self.truth.blocks <= self.engine.contents[reached - 1]

    @invariant()
    def a_known_gap_gives_no_credit(self) -> None:
        reached = self.feed.next_sequence
        assert self.truth.suspended or not self.truth.blocks or self.newest < (reached or 0)

    @invariant()
    def a_suspended_target_has_a_way_out(self) -> None:
        assert self.truth.suspended == self.feed.suspended
        if self.truth.suspended:
            assert self.feed.replaying
            assert (self.replay is None) != (self.snapshot is None)

    def teardown(self) -> None:
        if not hasattr(self, "feed"):
            return
        for _ in range(200):
            if self.replay is not None:
                self.replay_completes(hole=False)
            elif self.snapshot is not None:
                self.snapshot_completes()
        assert self.replay is None
        assert self.snapshot is None
        assert not self.truth.suspended

    def _travel(self, published: tuple[int, KVEventBatch], fate: str) -> None:
        if fate == "late":
            self.late.append(published)
        for _ in range({"arrives": 1, "twice": 2}.get(fate, 0)):
            self._live(*published)

    def _live(self, sequence: int, batch: KVEventBatch) -> None:
        restarts = self.feed.counters.restarts
        self._do(self.feed.live(sequence, batch))
        believed_new = self.feed.counters.restarts > restarts
        self.newest = sequence if believed_new else max(self.newest, sequence)

    def _do(self, action: Action) -> None:
        if action.asks:
            self.replay = self.snapshot = None
        if action.replay_from is not None:
            self.replay = deque(self.engine.replay(action.replay_from))
        elif action.snapshot:
            snapshot = self.engine.snapshot()
            payloads = [part for part in snapshot.parts() if part is not None]
            end = snapshot.end(len(payloads))
            self.snapshot = deque(map(decode_batch, payloads)), end


LossyTransport.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestLossyTransport = LossyTransport.TestCase


def answer(feed: EventFeed, snapshot: Snapshot) -> None:
    """All of a snapshot at once."""
    parts = [part for part in snapshot.parts() if part is not None]
    for part in parts:
        feed.imaged(decode_batch(part))
    end = snapshot.end(len(parts))
    assert not feed.snapshot_ended(end.sequence, end.ts).asks


@given(st.lists(PROMPTS, min_size=1, max_size=25), st.integers(0, 24), st.integers(0, 6))
@settings(max_examples=50, deadline=None)
def test_after_a_snapshot_the_index_knows_what_an_engine_holds_below_a_known_beginning(
    steps: list[list[list[int]]], asked_at: int, later: int
) -> None:
    """However much was published before; what follows live is applied after it."""
    engine = EngineModel(blocks_max=CACHE, ring_max=1)
    always, late = RememberedTruth(), RememberedTruth()
    feeds = [
        EventFeed(
            TARGET, truth, block_size=BLOCK, blocks_max=CACHE, can_replay=True, can_snapshot=is_late
        )
        for truth, is_late in ((always, False), (late, True))
    ]
    feeds[0].connected()
    feeds[0].replay_ended()
    snapshot = engine.snapshot()
    for number, prompts in enumerate(steps):
        if number == asked_at:
            assert feeds[1].connected().snapshot
            snapshot = engine.snapshot()
        published = engine.serve(prompts)
        if published is not None:
            feeds[0].live(*published)
            if number >= asked_at:
                feeds[1].live(*published)
        if number == min(asked_at + later, len(steps) - 1) and number >= asked_at:
            answer(feeds[1], snapshot)
    assert feeds[1].counters.restarts == 0
    if asked_at >= len(steps):
        return
    assert always.blocks == engine.held
    assert late.blocks <= always.blocks
    for prompt in (prompt for prompts in steps for prompt in prompts):
        chain = extend_chain(root_hash(), prompt, BLOCK)
        known = takewhile(always.blocks.__contains__, chain)
        assert set(known) <= late.blocks


@given(
    steps=st.lists(st.tuples(PROMPTS, st.booleans()), max_size=60),
    joined_at=st.integers(0, 60),
)
@settings(max_examples=150, deadline=None)
def test_after_a_complete_replay_the_index_equals_the_engine(
    steps: list[tuple[list[list[int]], bool]], joined_at: int
) -> None:
    engine = EngineModel(blocks_max=CACHE, ring_max=1000)
    truth = RememberedTruth()
    feed = EventFeed(TARGET, truth, block_size=BLOCK, blocks_max=CACHE, can_replay=True)
    for number, (prompts, arrives) in enumerate(steps):
        if number == joined_at:
            feed.connected()
        published = engine.serve(prompts)
        if published is not None and arrives and number >= joined_at:
            feed.live(*published)
    action = feed.connected()
    assert action.replay_from is not None
    for sequence, batch in engine.replay(action.replay_from):
        feed.replayed(sequence, batch)
    assert feed.replay_ended().replay_from is None
    assert not truth.suspended
    assert truth.blocks == engine.held
