"""From numbered event batches to a truthful index: gaps, replays, restarts; no I/O, no clock.

An engine numbers its batches from 0 and never sends one twice; the transport may lose some, the
engine may restart and begin at 0 again, and we may join late. One `EventFeed` per target turns
what arrives into index calls under one promise: **credit is given only for a state reached by
applying consecutive batches from a known start**; while that is in doubt the target is suspended.

* A gap suspends the target and asks for a replay. Live batches that come meanwhile are held
  (bounded) and applied after it.
* A replay is asked from the last batch already applied, the anchor, not from the one after it: if
  the anchor comes back with another time stamp, or not at all, the engine is another process that
  counts from 0, and what was known is void.
* A replay that cannot be joined to what is known clears the target and goes on from the oldest
  batch there is; one that fails clears it and goes on from the newest. Starting in the middle is
  sound: see `router.prefix.engine_blocks`. So no failure can keep a target suspended for good.
* Where the source can tell what its engine holds now, that snapshot is asked for whenever nothing
  is known, and what came live meanwhile is applied after it: a router that joins late knows all,
  however long ago it was published.
* A sequence that goes back is a duplicate if that very batch was applied, else a restart.
* A batch that cannot be read may have held removals: the target is cleared there.

The caller carries out the `replay_from` or `snapshot` of the returned actions, one at a time: a
newer one replaces an older one.
"""

from __future__ import annotations

from collections import deque

from rhizome.wire.kv_events import KVEventBatch
from router.prefix.engine_blocks import EngineBlocks, Truth
from router.prefix.layout import PLAIN_TRAITS, CacheTraits
from router.prefix.verdicts import REMEMBERED, Action, FeedCounters, FeedLimits, Verdict, items_in

__all__ = ["Action", "EventFeed", "FeedCounters", "FeedLimits", "Verdict"]

_ROUNDS_MAX = 64
"""Replays in a row after which a target is cleared instead of asking again."""


class EventFeed:
    """One target's events: what came is what the index believes, or the target is suspended."""

    def __init__(  # noqa: PLR0913  # the facts of one worker, all by name
        self,
        target: str,
        truth: Truth,
        *,
        block_size: int | None,
        blocks_max: int | None,
        can_replay: bool,
        can_snapshot: bool = False,
        traits: CacheTraits = PLAIN_TRAITS,
        limits: FeedLimits | None = None,
    ) -> None:
        self.target = target
        self.blocks = EngineBlocks(target, truth, block_size, blocks_max, traits)
        self.counters = FeedCounters()
        self._truth = truth
        self._can_replay = can_replay
        self._can_snapshot = can_replay and can_snapshot
        self._snapshot_refused = False
        self._snapshotting = False
        self._limits = limits or FeedLimits()
        self._next: int | None = None
        self._seen: deque[float | None] = deque(maxlen=REMEMBERED)
        self._imaged_ts: float | None = None
        self._accept_any = not can_replay
        self._suspended = False
        self._replaying = False
        self._anchor: int | None = None
        self._hole = False
        self._progress = False
        self._rounds = 0
        self._held: list[tuple[int, KVEventBatch | None]] = []
        self._held_items = 0
        self._dropped_to = self._given_up_to = -1

    @property
    def next_sequence(self) -> int | None:
        """The batch expected next; None when nothing is known."""
        return self._next

    @property
    def suspended(self) -> bool:
        """Whether the target gets no credit now."""
        return self._suspended

    @property
    def replaying(self) -> bool:
        """Whether an answer to a replay or a snapshot is awaited."""
        return self._replaying

    def connected(self) -> Action:
        """A connection to the engine stands: find out what was missed before it."""
        if not self._can_replay:
            self._resume()
            return Action(Verdict.IGNORED)
        self._drop_held()
        self._suspend()
        self._rounds = 0
        self._snapshot_refused = False
        return self._ask()

    def disconnected(self) -> Action:
        """The connection is gone: the engine may be another one when it comes back."""
        self._drop_held()
        self._replaying = self._snapshotting = False
        if self._can_replay:
            self._suspend()
            return Action(Verdict.WAITING)
        return self._start_over(accept_any=True)

    def check(self) -> Action:
        """After a silence: asks whether the engine is the same and nothing came after the last
        batch. Credit stays, and batches in order are taken, while it answers."""
        if not self._can_replay or self._replaying or self._suspended:
            return Action(Verdict.IGNORED)
        return self._ask()

    def live(self, sequence: int, batch: KVEventBatch | None) -> Action:
        """A batch as it was published; None if its payload could not be read."""
        in_order = self._next is not None and sequence <= self._next
        if self._replaying and (self._suspended or not in_order):
            self._suspend()
            return self._hold(sequence, batch)
        action = self._take(sequence, batch)
        if not self._replaying:
            self._rounds = 0
        return action

    def replayed(self, sequence: int, batch: KVEventBatch | None) -> Action:
        """A batch of the replay asked for; None if its payload could not be read."""
        if not self._replaying or self._hole:
            return Action(Verdict.IGNORED)
        if self._anchor is not None:
            return self._anchored(self._anchor, sequence, batch)
        if self._next is None:
            self._next = sequence
        if sequence < self._next:
            return Action(Verdict.IGNORED)
        if sequence > self._next:
            self._hole = True
            self._suspend()
            return Action(Verdict.WAITING)
        self._suspend()
        self._progress = True
        return self._apply(sequence, batch)

    def replay_ended(self) -> Action:
        """The engine said that the replay is complete."""
        if not self._replaying:
            return Action(Verdict.IGNORED)
        if self._anchor is not None:
            return self._restarted()
        if self._hole:
            return self._ask_again_or_give_up()
        if self._next is None:
            self._next = 0
        return self._settle()

    def replay_failed(self) -> Action:
        """No answer, an unreadable one, or one over the bounds."""
        if not self._replaying:
            return Action(Verdict.IGNORED)
        self.counters.replays_failed += 1
        if self._suspended:
            return self._ask_again_or_give_up()
        return self._settle()

    def imaged(self, batch: KVEventBatch | None) -> Action:
        """A part of the snapshot asked for; None if its payload could not be read."""
        if not self._snapshotting:
            return Action(Verdict.IGNORED)
        if batch is None:
            return self.snapshot_failed()
        self.blocks.apply(batch.events)
        return Action(Verdict.APPLIED)

    def snapshot_ended(self, sequence: int, ts: float) -> Action:
        """The snapshot is complete, and stands for the state after the batch of that sequence and
        time stamp; below 0 where the engine has published nothing."""
        if not self._snapshotting:
            return Action(Verdict.IGNORED)
        self._snapshotting = False
        self._next = max(0, sequence + 1)
        if sequence >= 0:
            self._seen.append(ts)
            self._imaged_ts = ts
        self._drop_covered()
        return self._settle()

    def snapshot_failed(self) -> Action:
        """No answer, an unreadable one, or one over the bounds: what can be replayed must do."""
        if not self._snapshotting:
            return Action(Verdict.IGNORED)
        self.counters.snapshots_failed += 1
        self._snapshotting = False
        self._snapshot_refused = True
        self.blocks.clear()
        return self._ask()

    # ------------------------------------------------------------------ replay

    def _ask(self) -> Action:
        """Starts a replay from the anchor; from the beginning where there is none, or with a
        snapshot."""
        self._rounds += 1
        self._replaying = True
        self._hole = self._progress = False
        if self._next is None and self._may_ask_snapshot():
            if len(self.blocks):
                self.blocks.clear()
            self.counters.snapshots += 1
            self._snapshotting = True
            self._anchor = None
            return Action(Verdict.WAITING, snapshot=True)
        self.counters.replays += 1
        self._anchor = self._next - 1 if self._next else None
        return Action(Verdict.WAITING, replay_from=self._anchor or 0)

    def _ask_for(self, sequence: int, batch: KVEventBatch | None) -> Action:
        """Starts a replay that `batch` waits for."""
        self._suspend()
        action = self._ask()
        self._hold(sequence, batch)
        return action

    def _anchored(self, anchor: int, sequence: int, batch: KVEventBatch | None) -> Action:
        """The first batch of a replay that should begin with one already applied."""
        if sequence < anchor:
            return Action(Verdict.IGNORED)
        self._anchor = None
        if sequence == anchor:
            return Action(Verdict.IGNORED) if self._is_known(anchor, batch) else self._restarted()
        self._suspend()
        if self._may_ask() and self._may_ask_snapshot():
            self._start_over(accept_any=False)
            return self._ask()
        return self._restart_at(sequence, batch)

    def _restarted(self) -> Action:
        """Another process answers: what was known is void; ask it for all it has."""
        self.counters.restarts += 1
        self._start_over(accept_any=False)
        self._suspend()
        if self._may_ask():
            return self._ask()
        return self._give_up()

    def _ask_again_or_give_up(self) -> Action:
        """A replay with a hole or without an end: worth another one if it brought something."""
        if self._progress and self._may_ask():
            return self._ask()
        if self._may_ask() and self._may_ask_snapshot():
            self._start_over(accept_any=False)
            return self._ask()
        return self._give_up()

    def _give_up(self) -> Action:
        """Goes on from nothing with what comes next, and what is held of it; what is older than
        something that was dropped is not next."""
        known_to = max(self._dropped_to, (self._next or 0) - 1)
        self._start_over(accept_any=True)
        self._given_up_to = known_to
        self._held = [one for one in self._held if one[0] > self._dropped_to]
        settled = self._settle()
        return settled if settled.asks else Action(Verdict.CLEARED)

    def _settle(self) -> Action:
        """The replay is over: credit again, and take what was held."""
        self._replaying = self._hole = False
        self._anchor = None
        self._resume()
        held, dropped_to = self._held, self._dropped_to
        self._held, self._held_items, self._dropped_to = [], 0, -1
        asked = Action(Verdict.APPLIED)
        for sequence, batch in held:
            if self._replaying:
                self._hold(sequence, batch)
                continue
            action = self._take(sequence, batch)
            if action.asks:
                asked = action
        is_behind = self._next is not None and self._next <= dropped_to
        if is_behind and not self._replaying and self._may_ask():
            self._suspend()  # what was dropped meanwhile is missing
            return self._ask()
        if not self._replaying:
            self._rounds = 0
        return asked

    def _hold(self, sequence: int, batch: KVEventBatch | None) -> Action:
        items = items_in(batch)
        full = len(self._held) >= self._limits.held_batches_max
        if full or self._held_items + items > self._limits.held_items_max:
            self.counters.held_dropped += len(self._held)
            self._dropped_to = max([self._dropped_to, *(number for number, _ in self._held)])
            self._drop_held()
        self._held.append((sequence, batch))
        self._held_items += items
        return Action(Verdict.HELD)

    def _drop_covered(self) -> None:
        """Held batches that the snapshot has in it; a sequence that goes back is another engine's,
        or will be taken for it."""
        covered, newest = 0, -1
        for sequence, _ in self._held:
            if not newest <= sequence < (self._next or 0):
                break
            covered, newest = covered + 1, sequence
        del self._held[:covered]

    def _drop_held(self) -> None:
        self._held, self._held_items = [], 0

    # ----------------------------------------------------------------- applying

    def _take(self, sequence: int, batch: KVEventBatch | None) -> Action:
        if self._next is None:
            if not self._accept_any:
                return self._ask_for(sequence, batch)
            if sequence <= self._given_up_to:
                self.counters.restarts += 1
            self._next = sequence
        if sequence == self._next:
            return self._apply(sequence, batch)
        if sequence < self._next:
            return self._gone_back(sequence, batch)
        self.counters.gaps += 1
        if self._may_ask():
            return self._ask_for(sequence, batch)
        return self._restart_at(sequence, batch)

    def _apply(self, sequence: int, batch: KVEventBatch | None) -> Action:
        assert sequence == self._next
        self._next = sequence + 1
        self._imaged_ts = None
        self._seen.append(batch.ts if batch is not None else None)
        if batch is None:
            self.counters.undecodable += 1
            self.blocks.clear()
            return Action(Verdict.CLEARED)
        self.counters.batches += 1
        self.blocks.counters.unknown_events += batch.unknown_events
        self.blocks.apply(batch.events)
        return Action(Verdict.APPLIED)

    def _gone_back(self, sequence: int, batch: KVEventBatch | None) -> Action:
        if batch is not None and self._is_known(sequence, batch):
            self.counters.duplicates += 1
            return Action(Verdict.IGNORED)
        self.counters.restarts += 1
        if self._may_ask():
            self._start_over(accept_any=False)
            return self._ask_for(sequence, batch)
        return self._restart_at(sequence, batch)

    def _restart_at(self, sequence: int, batch: KVEventBatch | None) -> Action:
        """Starts from nothing with this batch."""
        self._start_over(accept_any=True)
        self._next = sequence
        self._progress = True
        self._apply(sequence, batch)
        return Action(Verdict.CLEARED)

    def _start_over(self, *, accept_any: bool) -> Action:
        self.blocks.clear()
        self._seen.clear()
        self._imaged_ts = self._next = None
        self._given_up_to = -1
        self._accept_any = accept_any
        return Action(Verdict.CLEARED)

    def _is_known(self, sequence: int, batch: KVEventBatch | None) -> bool:
        """Whether this very batch was applied, as far as is remembered, or is in the snapshot."""
        assert self._next is not None
        back = self._next - sequence
        if back > len(self._seen):
            # Batches on their way when a snapshot was taken are in it; a restart's are newer.
            if batch is None or self._imaged_ts is None:
                return False
            return batch.ts <= self._imaged_ts
        return self._seen[-back] == (batch.ts if batch is not None else None)

    def _may_ask(self) -> bool:
        return self._can_replay and self._rounds < _ROUNDS_MAX

    def _may_ask_snapshot(self) -> bool:
        return self._can_snapshot and not self._snapshot_refused

    def _suspend(self) -> None:
        if not self._suspended:
            self._suspended = True
            self._truth.suspend(self.target)

    def _resume(self) -> None:
        if self._suspended:
            self._suspended = False
            self._truth.resume(self.target)
