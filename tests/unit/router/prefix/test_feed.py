"""The gap protocol: credit only for a state reached by consecutive batches."""

from __future__ import annotations

from rhizome.wire.kv_events import KVEventBatch
from router.prefix.feed import EventFeed, FeedLimits, Verdict
from router.prefix.hashing import block_hashes, root_hash
from tests.unit.router.prefix.events_told import (
    BLOCK,
    TARGET,
    RememberedTruth,
    batch,
    removed,
    stored,
    tokens_of,
)


class Bench:
    """A feed under test with the index it writes."""

    def __init__(self, *, can_replay: bool = True, limits: FeedLimits | None = None) -> None:
        self.truth = RememberedTruth()
        self.feed = EventFeed(
            TARGET,
            self.truth,
            block_size=BLOCK,
            blocks_max=1000,
            can_replay=can_replay,
            limits=limits,
        )

    def settled(self, batches: int) -> Bench:
        """Connected, with batches 0 to n-1 applied; batch i stored block i."""
        assert self.feed.connected().replay_from == 0
        for sequence in range(batches):
            self.feed.replayed(sequence, told(sequence))
        self.feed.replay_ended()
        assert not self.truth.suspended
        return self


def told(number: int, ts: float | None = None) -> KVEventBatch:
    event = stored([1000 + number], tokens_of(number))
    return batch(float(number) if ts is None else ts, event)


def ours(*numbers: int) -> set[int]:
    return {block_hashes(tokens_of(number), BLOCK, root_hash())[0] for number in numbers}


def test_a_late_join_replays_from_the_beginning_and_credits_after_it() -> None:
    bench = Bench()
    assert bench.feed.connected().replay_from == 0
    bench.feed.replayed(0, told(0))
    assert bench.truth.credited == set()
    assert bench.feed.replay_ended().verdict is Verdict.APPLIED
    assert bench.truth.credited == ours(0)


def test_a_fresh_engine_is_followed_from_its_first_batch() -> None:
    bench = Bench().settled(0)
    assert bench.feed.live(0, told(0)).verdict is Verdict.APPLIED
    assert bench.truth.credited == ours(0)


def test_a_ring_that_lost_the_beginning_gives_a_partial_view() -> None:
    bench = Bench()
    bench.feed.connected()
    child = stored([1021], tokens_of(21), parent=1020)
    bench.feed.replayed(20, batch(20.0, child))
    bench.feed.replayed(21, told(22))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(22)
    assert bench.feed.blocks.counters.unknown_parent == 1


def test_a_gap_suspends_until_the_replay_has_filled_it() -> None:
    bench = Bench().settled(2)
    action = bench.feed.live(3, told(3))
    assert action.replay_from == 1
    assert bench.truth.credited == set()
    bench.feed.replayed(1, told(1))
    bench.feed.replayed(2, told(2))
    assert bench.feed.replay_ended().replay_from is None
    assert bench.truth.credited == ours(0, 1, 2, 3)
    assert bench.feed.counters.gaps == 1


def test_live_batches_wait_for_the_replay_and_are_not_applied_twice() -> None:
    bench = Bench().settled(1)
    bench.feed.live(2, told(2))
    assert bench.feed.live(3, batch(3.0, removed(1001))).verdict is Verdict.HELD
    for sequence in (0, 1, 2):
        bench.feed.replayed(sequence, told(sequence))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(0, 2)
    assert bench.feed.next_sequence == 4
    assert bench.feed.counters.duplicates == 1


def test_a_gap_that_the_ring_no_longer_covers_clears_and_goes_on_from_what_is_left() -> None:
    bench = Bench().settled(2)
    bench.feed.live(9, told(9))
    assert bench.feed.replayed(7, told(7)).verdict is Verdict.CLEARED
    bench.feed.replayed(8, told(8))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(7, 8, 9)


def test_a_replay_with_a_hole_is_asked_for_again_from_where_it_broke() -> None:
    bench = Bench()
    bench.feed.connected()
    for sequence in (0, 1, 3, 4):
        bench.feed.replayed(sequence, told(sequence))
    assert bench.feed.replay_ended().replay_from == 1
    assert bench.truth.credited == set()
    for sequence in (1, 2, 3, 4):
        bench.feed.replayed(sequence, told(sequence))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(0, 1, 2, 3, 4)


def test_a_failed_replay_clears_and_goes_on_from_the_newest() -> None:
    bench = Bench().settled(2)
    bench.feed.live(5, told(5))
    bench.feed.live(6, told(6))
    assert bench.feed.replay_failed().verdict is Verdict.CLEARED
    assert bench.truth.credited == ours(5, 6)
    assert bench.feed.live(7, told(7)).verdict is Verdict.APPLIED


def test_a_replay_that_broke_off_after_progress_is_continued() -> None:
    bench = Bench()
    bench.feed.connected()
    bench.feed.replayed(0, told(0))
    bench.feed.replayed(1, told(1))
    assert bench.feed.replay_failed().replay_from == 1
    bench.feed.replayed(1, told(1))
    assert bench.feed.replay_failed().verdict is Verdict.CLEARED
    assert not bench.truth.suspended


def test_without_a_replay_endpoint_a_gap_clears() -> None:
    bench = Bench(can_replay=False)
    bench.feed.connected()
    assert bench.feed.live(5, told(5)).verdict is Verdict.APPLIED
    assert bench.feed.live(7, told(7)).verdict is Verdict.CLEARED
    assert bench.truth.credited == ours(7)


def test_a_duplicate_changes_nothing() -> None:
    bench = Bench().settled(3)
    assert bench.feed.live(1, told(1)).verdict is Verdict.IGNORED
    assert bench.feed.next_sequence == 3


def test_a_sequence_that_goes_back_is_a_restart() -> None:
    bench = Bench().settled(3)
    action = bench.feed.live(1, told(8, ts=99.0))
    assert action.replay_from == 0
    assert bench.truth.blocks == set()
    bench.feed.replayed(0, told(7, ts=98.0))
    bench.feed.replayed(1, told(8, ts=99.0))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(7, 8)
    assert bench.feed.counters.restarts == 1


def test_a_lost_connection_gives_no_credit_until_the_engine_proves_to_be_the_same() -> None:
    bench = Bench().settled(3)
    bench.feed.disconnected()
    assert bench.truth.credited == set()
    assert bench.feed.connected().replay_from == 2
    bench.feed.replayed(2, told(2))
    bench.feed.replayed(3, told(3))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(0, 1, 2, 3)


def test_an_engine_that_does_not_know_the_anchor_is_another_one() -> None:
    bench = Bench().settled(3)
    bench.feed.disconnected()
    bench.feed.connected()
    assert bench.feed.replay_ended().replay_from == 0
    bench.feed.replay_ended()
    assert bench.truth.credited == set()
    assert bench.feed.live(0, told(5, ts=50.0)).verdict is Verdict.APPLIED


def test_an_engine_with_another_batch_at_the_anchor_is_another_one() -> None:
    bench = Bench().settled(3)
    bench.feed.disconnected()
    bench.feed.connected()
    assert bench.feed.replayed(2, told(2, ts=77.0)).replay_from == 0
    assert bench.truth.blocks == set()


def test_a_lost_connection_without_replay_forgets_all() -> None:
    bench = Bench(can_replay=False)
    bench.feed.connected()
    bench.feed.live(0, told(0))
    bench.feed.disconnected()
    assert bench.truth.blocks == set()
    bench.feed.connected()
    bench.feed.live(1, told(1))
    assert bench.truth.credited == ours(1)


def test_an_unreadable_batch_clears_and_the_next_one_counts() -> None:
    bench = Bench().settled(2)
    assert bench.feed.live(2, None).verdict is Verdict.CLEARED
    assert bench.feed.live(3, told(3)).verdict is Verdict.APPLIED
    assert bench.truth.credited == ours(3)
    assert bench.feed.counters.undecodable == 1


def test_an_unreadable_anchor_does_not_make_every_check_a_restart() -> None:
    bench = Bench().settled(2)
    bench.feed.live(2, None)
    assert bench.feed.check().replay_from == 2
    assert bench.feed.replayed(2, None).verdict is Verdict.IGNORED
    assert bench.feed.replay_ended().replay_from is None
    assert bench.feed.counters.restarts == 0


def test_a_check_keeps_the_credit_and_finds_what_was_lost_at_the_end() -> None:
    bench = Bench().settled(2)
    assert bench.feed.check().replay_from == 1
    bench.feed.replayed(1, told(1))
    assert bench.truth.credited == ours(0, 1)
    bench.feed.replayed(2, batch(2.0, removed(1000)))
    assert bench.truth.credited == set()
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(1)


def test_a_check_finds_a_restart_that_nothing_else_showed() -> None:
    bench = Bench().settled(2)
    bench.feed.check()
    assert bench.feed.replay_ended().replay_from == 0
    assert bench.truth.blocks == set()


def test_a_check_without_an_answer_changes_nothing() -> None:
    bench = Bench().settled(2)
    bench.feed.check()
    bench.feed.live(2, told(2))
    bench.feed.replay_failed()
    assert bench.truth.credited == ours(0, 1, 2)


def test_held_batches_over_the_bound_are_dropped_and_replayed() -> None:
    bench = Bench(limits=FeedLimits(held_batches_max=2)).settled(1)
    for sequence in (2, 3, 4):
        bench.feed.live(sequence, told(sequence))
    for sequence in (0, 1, 2):
        bench.feed.replayed(sequence, told(sequence))
    action = bench.feed.replay_ended()
    assert action.replay_from == 2
    for sequence in (2, 3, 4):
        bench.feed.replayed(sequence, told(sequence))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(0, 1, 2, 3, 4)


def test_an_engine_that_never_stops_losing_batches_does_not_hold_a_target_for_good() -> None:
    bench = Bench().settled(1)
    sequence, rounds = 2, 0
    action = bench.feed.live(sequence, told(sequence))
    while action.replay_from is not None:
        rounds += 1
        assert rounds < 100
        sequence += 2
        bench.feed.live(sequence, told(sequence))
        start = action.replay_from
        bench.feed.replayed(start, told(start))
        bench.feed.replayed(start + 1, told(start + 1))
        action = bench.feed.replay_ended()
    assert not bench.truth.suspended


def test_no_input_before_a_connection_breaks_the_feed() -> None:
    bench = Bench()
    assert bench.feed.replayed(4, told(4)).verdict is Verdict.IGNORED
    assert bench.feed.replay_ended().verdict is Verdict.IGNORED
    assert bench.feed.replay_failed().verdict is Verdict.IGNORED
    assert bench.feed.live(4, told(4)).replay_from == 0


def test_what_was_dropped_during_a_replay_is_asked_for_when_it_ends() -> None:
    bench = Bench(limits=FeedLimits(held_batches_max=1))
    bench.feed.connected()
    assert bench.feed.live(1, told(1)).verdict is Verdict.HELD
    assert bench.feed.live(0, told(0)).verdict is Verdict.HELD
    assert bench.feed.replay_ended().replay_from == 0
    assert bench.truth.credited == set()
    for sequence in (0, 1):
        bench.feed.replayed(sequence, told(sequence))
    bench.feed.replay_ended()
    assert bench.truth.credited == ours(0, 1)


def test_batches_on_their_way_when_a_snapshot_was_taken_are_in_it() -> None:
    feed, truth = a_feed_with_a_snapshot_after(9)
    assert feed.live(7, told(7)).verdict is Verdict.IGNORED
    assert feed.live(9, told(9)).verdict is Verdict.IGNORED
    assert feed.live(10, told(10)).verdict is Verdict.APPLIED
    assert (feed.counters.restarts, feed.blocks.counters.clears) == (0, 0)
    assert truth.credited == ours(5, 10)


def test_an_engine_that_restarts_right_after_its_snapshot_is_another_one() -> None:
    feed, truth = a_feed_with_a_snapshot_after(9)
    assert feed.live(0, told(0, ts=10.0)).asks
    assert feed.counters.restarts == 1
    assert truth.credited == set()


def a_feed_with_a_snapshot_after(sequence: int) -> tuple[EventFeed, RememberedTruth]:
    """Connected to an engine that holds block 5."""
    truth = RememberedTruth()
    feed = EventFeed(
        TARGET, truth, block_size=BLOCK, blocks_max=1000, can_replay=True, can_snapshot=True
    )
    assert feed.connected().snapshot
    feed.imaged(told(5))
    feed.snapshot_ended(sequence, float(sequence))
    return feed, truth
