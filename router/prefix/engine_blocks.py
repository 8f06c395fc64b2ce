"""One target's KV cache in our own hashes, kept from what its engine says of it.

An engine names its blocks by hashes that are opaque to us. Each stored block is given our chained
hash, computed from its parent's and its tokens, or that of the same block elsewhere in the engine
(another tier, another KV cache group): its name tells which. What can be had in neither way is
skipped and counted, never guessed.

**Copies.** vLLM does not share equal blocks that were computed twice (two equal prompts in one
step; the last block of a repeated prompt, which is always computed again). Each copy is announced
when it is stored and when it is evicted, under the same hash, so copies are counted and a block is
forgotten with its last one. Forgetting it with the first eviction would lose a hot prefix for
good, as hits on the remaining copy are not announced.

**Soundness.** The count is never above the engine's own: both grow by one with a store, and with a
removal the engine's falls by one and ours by one or stays at zero. This holds from any moment at
which we start from nothing and see every event since, so a partial view (joined late, or cleared
in the middle) credits only what is there. What it leaves out is found again when it is stored
again.

**Bounds.** A target's device cannot hold more than its engine announced, copies included; a slower
tier has a bound of our own. What is more is forgotten, the oldest first, and counted: removals
were lost, stores forged, or blocks in use announced again (`kv_cache_report_mode`).

Two things void the view, and it then starts from nothing: `AllBlocksCleared`; one of our hashes
under two engine hashes (a LoRA name pointed at another adapter, which the engine hashes by path and
the events do not carry).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rhizome.wire.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EngineHash, KVEvent
from router.prefix.extra_keys import salt_and_text
from router.prefix.hashing import extend_chain, root_hash
from router.prefix.layout import (
    PLAIN_TRAITS,
    UNCACHED_KINDS,
    CacheTraits,
    Group,
    Layer,
    Layout,
    Tier,
)
from router.prefix.names import Names, key_of, keys_of_names
from router.prefix.table import Hashes
from router.prefix.verdicts import BlockCounters

COPIES_MAX = 2**20
"""Bound on a tier that nobody said how many blocks it has."""
GROUPS_MAX = 64
"""KV cache groups of one engine; more are nonsense."""


class Truth(Protocol):
    """The part of the prefix index that events write (see `router.prefix.index`)."""

    def store(self, target: str, hashes: Hashes, layer: Layer) -> int: ...

    def remove(self, target: str, hashes: Hashes, layer: Layer) -> None: ...

    def clear(self, target: str) -> None: ...

    def describe(self, target: str, layout: Layout) -> None: ...

    def suspend(self, target: str) -> None: ...

    def resume(self, target: str) -> None: ...


class _Conflict(Exception):
    """An engine's name stands for two blocks, or a block has two names."""


@dataclass(slots=True)
class _Place:
    """One tier and group: the blocks there, and what a batch changes of them."""

    layer: Layer
    names: Names = field(default_factory=Names)
    stores: dict[int, int] = field(default_factory=dict)
    removals: set[int] = field(default_factory=set)
    unnamed: dict[int, int] = field(default_factory=dict)
    """Stored under a name that nothing explains yet, with their copies."""


class EngineBlocks:
    """Translates one target's events into calls of the index."""

    def __init__(
        self,
        target: str,
        truth: Truth,
        block_size: int | None,
        blocks_max: int | None,
        traits: CacheTraits = PLAIN_TRAITS,
    ) -> None:
        self._target = target
        self._traits = traits
        self._truth = truth
        self._block_size = block_size
        self._device_max = COPIES_MAX if blocks_max is None else blocks_max
        self._places: dict[Layer, _Place] = {}
        self._place_of: dict[tuple[str | None, int | None], _Place] = {}
        """The same by what events say of it."""
        self._groups: dict[int, Group] = {}
        self._told: dict[int, tuple[object, ...]] = {}
        """What events said last of each group."""
        self.counters = BlockCounters()
        self.mismatch = False
        """The engine's block size is not the registered one: nothing of it can be credited."""

    def __len__(self) -> int:
        """Blocks known in all tiers and groups, copies not counted."""
        return sum(len(place.names) for place in self._places.values())

    @property
    def bytes_used(self) -> int:
        """Memory of the engine's names, in bytes."""
        return sum(place.names.bytes_used for place in self._places.values())

    def apply(self, events: Sequence[KVEvent]) -> None:
        """Takes the events of one batch, in the engine's order.

        Stores and removals of different blocks commute, so they are gathered, and carried out at
        the end or where one block comes twice.
        """
        self.counters.events += len(events)
        try:
            self._apply(events)
        except _Conflict:
            self._start_again(events)

    def clear(self) -> None:
        """Forgets everything but what kinds of groups there are."""
        self.counters.clears += 1
        self._places.clear()
        self._place_of.clear()
        self._truth.clear(self._target)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        for place in self._places.values():
            place.names.check_invariants()
            assert not any((place.stores, place.removals, place.unnamed))
        assert all(self._copies(tier) <= self._bound(tier) for tier in Tier)
        assert all(self._places[one.layer] is one for one in self._place_of.values())

    def _apply(self, events: Sequence[KVEvent]) -> None:
        for event in events:
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                self._removed(event)
            else:
                assert isinstance(event, AllBlocksCleared)
                self.clear()
        self._carry_out()
        self._name_late()

    def _start_again(self, events: Sequence[KVEvent]) -> None:
        """After a conflict: what these events say counts if it does not need what came before."""
        self.counters.conflicts += 1
        self.clear()
        try:
            self._apply(events)
        except _Conflict:
            self.clear()

    # ------------------------------------------------------------------- stores

    def _stored(self, event: BlockStored) -> None:
        count, size = len(event.block_hashes), event.block_size
        if event.kv_cache_spec_kind in UNCACHED_KINDS or not _is_group(event.group_idx):
            self.counters.passed_over += count
            return
        place = self._place(event)
        if not size:
            self._store_named(place, event)
            return
        span, left = divmod(size, self._block_size or size + 1)
        if left or not span:
            self.counters.mismatched += count
            self.mismatch = True
            return
        if not self._learn_group(place.layer.group, event, span):
            self.counters.passed_over += count
            return
        if event.blocks != count:
            self._store_named(place, event)
            return
        if event.lora_name is not None:
            self.counters.adapted += count
        salt, textual = salt_and_text(event)
        self.counters.salted += salt is not None
        parent = self._parent(event, salt)
        if parent is None:
            self.counters.unknown_parent += count
            return
        self.counters.not_text += count - textual
        chain = self._chain(parent, event, textual)
        if chain is not None:
            ours = chain if span == 1 else chain[span - 1 :: span]
            self._store(place, event.block_hashes[:textual], ours)

    def _chain(self, parent: int, event: BlockStored, blocks: int) -> list[int] | None:
        """Our hashes of the event's first blocks; None if its tokens are none."""
        assert self._block_size is not None
        try:
            return extend_chain(
                parent, event.token_ids[: blocks * event.block_size], self._block_size
            )
        except ValueError:
            self.counters.not_text += blocks
            return None

    def _store(self, place: _Place, engine_hashes: Sequence[EngineHash], ours: list[int]) -> None:
        names, stores = keys_of_names(engine_hashes), place.stores
        repeated = (
            place.removals
            or (stores and not stores.keys().isdisjoint(names))
            or (len(names) > 1 and len(set(names)) != len(names))
        )
        if not repeated:
            stores.update(zip(names, ours, strict=True))
            return
        for name, block in zip(names, ours, strict=True):
            if name in place.stores or name in place.removals:
                self._carry_out()
            place.stores[name] = block

    def _store_named(self, place: _Place, event: BlockStored) -> None:
        """Blocks that are known by name only; the event that says what they are may come later in
        the same batch."""
        for name in keys_of_names(event.block_hashes):
            ours = self._find(name)
            if ours:
                self._store(place, [name], [ours])
            else:
                place.unnamed[name] = place.unnamed.get(name, 0) + 1

    def _name_late(self) -> None:
        """Stores what was named since."""
        named = [place for place in self._places.values() if place.unnamed]
        for place in named:
            waiting, place.unnamed = place.unnamed, {}
            for name, copies in waiting.items():
                ours = self._find(name)
                if not ours:
                    self.counters.unknown_parent += copies
                for _ in range(copies if ours else 0):
                    self._store(place, [name], [ours])
        if named:
            self._carry_out()

    def _learn_group(self, number: int, event: BlockStored, span: int) -> bool:
        """False for a part of a block, which vLLM names where a prompt ends in the middle of a
        large one, and finds in few models only."""
        kind, window = event.kv_cache_spec_kind, event.kv_cache_spec_sliding_window
        told = kind, window, span
        if self._told.get(number) == told:
            return True
        known = self._groups.get(number)
        if known is not None and known.span > span:
            return False
        self._told[number] = told
        size = event.block_size // span
        group = Group.of_kind(number, kind, window, span, size, self._traits)
        if known != group:
            self._groups[number] = group
            groups = tuple(self._groups[one] for one in sorted(self._groups))
            self._truth.describe(self._target, Layout(groups))
        return True

    # ----------------------------------------------------------------- removals

    def _removed(self, event: BlockRemoved) -> None:
        if not _is_group(event.group_idx):
            self.counters.passed_over += len(event.block_hashes)
            return
        place = self._place(event)
        waiting = place.unnamed
        for name in keys_of_names(event.block_hashes):
            if waiting and name in waiting:
                waiting[name] -= 1
                if not waiting[name]:
                    del waiting[name]
                continue
            if name in place.stores or name in place.removals:
                self._carry_out()
            place.removals.add(name)

    def _place(self, event: BlockStored | BlockRemoved) -> _Place:
        told = event.medium, event.group_idx
        place = self._place_of.get(told)
        if place is None:
            layer = Layer(Tier.of_medium(event.medium), event.group_idx or 0)
            place = self._places.get(layer)
            if place is None:
                place = self._places[layer] = _Place(layer)
            if len(self._place_of) < GROUPS_MAX * len(Tier):
                self._place_of[told] = place
        return place

    # -------------------------------------------------------------- carrying out

    def _carry_out(self) -> None:
        """Tells the names and the index of what was gathered: removals first, for room."""
        for place in self._places.values():
            if place.removals:
                removals, place.removals = place.removals, set()
                ours, count = place.names.remove(removals)
                self.counters.removed += count
                self._forget(place.layer, ours)
        for place in self._places.values():
            if place.stores:
                stores, place.stores = place.stores, {}
                self._insert(place, stores)

    def _insert(self, place: _Place, new: dict[int, int]) -> None:
        if len(new) > 1 and len(set(new.values())) != len(new):
            raise _Conflict
        added = place.names.add(new)
        if added.contradicted:
            raise _Conflict
        if self._truth.store(self._target, added.ours, place.layer) < added.unknown:
            raise _Conflict  # one of them is held under another name
        self.counters.stored += len(new)
        self._keep_bound(place.layer.tier)

    def _keep_bound(self, tier: Tier) -> None:
        excess = self._copies(tier) - self._bound(tier)
        while excess > 0:
            fullest = max(
                (place for place in self._places.values() if place.layer.tier is tier),
                key=lambda place: place.names.copies,
            )
            ours, copies = fullest.names.remove_oldest(excess)
            self.counters.over_bound += copies
            excess -= copies
            self._forget(fullest.layer, ours)

    def _forget(self, layer: Layer, ours: Hashes) -> None:
        if len(ours):
            self._truth.remove(self._target, ours, layer)

    def _copies(self, tier: Tier) -> int:
        return sum(
            place.names.copies for place in self._places.values() if place.layer.tier is tier
        )

    def _bound(self, tier: Tier) -> int:
        return self._device_max if tier is Tier.DEVICE else COPIES_MAX

    # ------------------------------------------------------------------- chains

    def _find(self, name: int) -> int:
        """Our hash of a block that the engine has anywhere; 0 if there is none."""
        for place in self._places.values():
            if name in place.stores:
                return place.stores[name]
        for place in self._places.values():
            ours = place.names.get(name)
            if ours:
                return ours
        return 0

    def _parent(self, event: BlockStored, salt: str | None) -> int | None:
        """Our hash above the event's first block; None if it cannot be known."""
        if event.parent_block_hash is None:
            return root_hash(event.lora_name, salt)
        return self._find(key_of(event.parent_block_hash)) or None


def _is_group(number: int | None) -> bool:
    return number is None or 0 <= number < GROUPS_MAX
