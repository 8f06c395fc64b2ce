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
from typing import Any, Protocol

from rhizome.wire.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EngineHash, KVEvent
from router.prefix.hashing import extend_chain, root_hash
from router.prefix.layout import UNCACHED_KINDS, Group, Layer, Layout, Tier
from router.prefix.names import Names, key_of, keys_of_names
from router.prefix.table import Keys
from router.prefix.verdicts import BlockCounters

COPIES_MAX = 2**20
"""Bound on a tier that nobody said how many blocks it has."""
GROUPS_MAX = 64
"""KV cache groups of one engine; more are nonsense."""


class Truth(Protocol):
    """The part of the prefix index that events write (see `router.prefix.index`)."""

    def store(self, target: str, hashes: Keys, layer: Layer) -> int: ...

    def remove(self, target: str, hashes: Keys, layer: Layer) -> None: ...

    def clear(self, target: str) -> None: ...

    def describe(self, target: str, layout: Layout) -> None: ...

    def suspend(self, target: str) -> None: ...

    def resume(self, target: str) -> None: ...


class _Conflict(Exception):
    """An engine's name stands for two blocks, or a block has two names."""


class EngineBlocks:
    """Translates one target's events into calls of the index."""

    def __init__(
        self, target: str, truth: Truth, block_size: int | None, blocks_max: int | None
    ) -> None:
        self._target = target
        self._truth = truth
        self._block_size = block_size
        self._bounds = {Tier.DEVICE: COPIES_MAX if blocks_max is None else blocks_max}
        self._layers: dict[tuple[str | None, int | None], Layer] = {}
        self._names: dict[Layer, Names] = {}
        self._groups: dict[int, Group] = {}
        self._stores: dict[Layer, dict[int, int]] = {}
        self._removals: dict[Layer, set[int]] = {}
        self._unnamed: dict[Layer, dict[int, int]] = {}
        self.counters = BlockCounters()
        self.mismatch = False
        """The engine's block size is not the registered one: nothing of it can be credited."""

    def __len__(self) -> int:
        """Blocks known in all tiers and groups, copies not counted."""
        return sum(map(len, self._names.values()))

    @property
    def bytes_used(self) -> int:
        """Memory of the engine's names, in bytes."""
        return sum(names.bytes_used for names in self._names.values())

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
        self._names.clear()
        self._stores.clear()
        self._removals.clear()
        self._unnamed.clear()
        self._truth.clear(self._target)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        for layer, names in self._names.items():
            names.check_invariants()
            assert names.copies <= self._bounds.get(layer.tier, COPIES_MAX)
        for tier in Tier:
            assert self._copies(tier) <= self._bounds.get(tier, COPIES_MAX)
        assert not self._stores
        assert not any(self._removals.values())
        assert not self._unnamed

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
        count = len(event.block_hashes)
        if event.kv_cache_spec_kind in UNCACHED_KINDS or not _is_group(event.group_idx):
            self.counters.passed_over += count
            return
        layer = self._layer(event)
        if not event.block_size:
            self._store_named(layer, event)
            return
        span, left = divmod(event.block_size, self._block_size or event.block_size + 1)
        if left or not span:
            self.counters.mismatched += count
            self.mismatch = True
            return
        if not self._learn_group(layer.group, event, span):
            self.counters.passed_over += count
            return
        if event.blocks != count:
            self._store_named(layer, event)
            return
        if event.lora_name is not None:
            self.counters.adapted += count
        parent, textual = self._start_of_chain(event)
        if parent is None:
            self.counters.unknown_parent += count
            return
        self.counters.not_text += count - textual
        tokens = event.token_ids[: textual * event.block_size]
        assert self._block_size is not None
        try:
            chain = extend_chain(parent, tokens, self._block_size)[span - 1 :: span]
        except ValueError:
            self.counters.not_text += textual
            return
        self._store(layer, event.block_hashes[:textual], chain)

    def _store(self, layer: Layer, engine_hashes: Sequence[EngineHash], ours: list[int]) -> None:
        names = keys_of_names(engine_hashes)
        stores = self._stores.setdefault(layer, {})
        removals = self._removals.get(layer, ())
        repeated = not stores.keys().isdisjoint(names) or len(set(names)) != len(names)
        if not repeated and not removals:
            stores.update(zip(names, ours, strict=True))
            return
        for name, block in zip(names, ours, strict=True):
            if name in self._stores.get(layer, ()) or name in self._removals.get(layer, ()):
                self._carry_out()
            self._stores.setdefault(layer, {})[name] = block

    def _store_named(self, layer: Layer, event: BlockStored) -> None:
        """Blocks that are known by name only; the event that says what they are may come later in
        the same batch."""
        for name in keys_of_names(event.block_hashes):
            ours = self._find(name)
            if ours:
                self._store(layer, [name], [ours])
            else:
                waiting = self._unnamed.setdefault(layer, {})
                waiting[name] = waiting.get(name, 0) + 1

    def _name_late(self) -> None:
        """Stores what was named since."""
        if not self._unnamed:
            return
        unnamed, self._unnamed = self._unnamed, {}
        for layer, waiting in unnamed.items():
            for name, copies in waiting.items():
                ours = self._find(name)
                if not ours:
                    self.counters.unknown_parent += copies
                for _ in range(copies if ours else 0):
                    self._store(layer, [name], [ours])
        self._carry_out()

    def _learn_group(self, number: int, event: BlockStored, span: int) -> bool:
        """False for a part of a block, which vLLM names where a prompt ends in the middle of a
        large one, and finds in few models only."""
        known = self._groups.get(number)
        if known is not None and known.span > span:
            return False
        group = Group.of_kind(
            number,
            event.kv_cache_spec_kind,
            event.kv_cache_spec_sliding_window,
            event.block_size,
            span,
        )
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
        layer = self._layer(event)
        stores, waiting = self._stores.get(layer, {}), self._unnamed.get(layer, {})
        removals = self._removals.setdefault(layer, set())
        for name in keys_of_names(event.block_hashes):
            if name in waiting:
                waiting[name] -= 1
                if not waiting[name]:
                    del waiting[name]
                continue
            if name in stores or name in removals:
                self._carry_out()
                stores, removals = {}, self._removals.setdefault(layer, set())
            removals.add(name)

    def _layer(self, event: BlockStored | BlockRemoved) -> Layer:
        place = event.medium, event.group_idx
        layer = self._layers.get(place)
        if layer is None:
            layer = Layer(Tier.of_medium(event.medium), event.group_idx or 0)
            if len(self._layers) < GROUPS_MAX * len(Tier):
                self._layers[place] = layer
        return layer

    # -------------------------------------------------------------- carrying out

    def _carry_out(self) -> None:
        """Tells the names and the index of what was gathered: removals first, for room."""
        removals, self._removals = self._removals, {}
        for layer, gone in removals.items():
            names = self._names.get(layer)
            if names is not None:
                ours, count = names.remove(gone)
                self.counters.removed += count
                self._forget(layer, ours)
        stores, self._stores = self._stores, {}
        for layer, new in stores.items():
            if new:
                self._insert(layer, new)

    def _insert(self, layer: Layer, new: dict[int, int]) -> None:
        if len(set(new.values())) != len(new):
            raise _Conflict
        names = self._names.get(layer)
        if names is None:
            names = self._names[layer] = Names()
        added = names.add(new)
        if added.contradicted:
            raise _Conflict
        if self._truth.store(self._target, added.ours, layer) < added.unknown:
            raise _Conflict  # one of them is held under another name
        self.counters.stored += len(new)
        self._keep_bound(layer.tier)

    def _keep_bound(self, tier: Tier) -> None:
        excess = self._copies(tier) - self._bounds.get(tier, COPIES_MAX)
        while excess > 0:
            layer = max(
                (one for one in self._names if one.tier is tier),
                key=lambda one: self._names[one].copies,
            )
            ours, copies = self._names[layer].remove_oldest(excess)
            self.counters.over_bound += copies
            excess -= copies
            self._forget(layer, ours)

    def _forget(self, layer: Layer, ours: Keys) -> None:
        if len(ours):
            self._truth.remove(self._target, ours, layer)

    def _copies(self, tier: Tier) -> int:
        return sum(names.copies for layer, names in self._names.items() if layer.tier is tier)

    # ------------------------------------------------------------------- chains

    def _find(self, name: int) -> int:
        """Our hash of a block that the engine has anywhere; 0 if there is none."""
        for stores in self._stores.values():
            if name in stores:
                return stores[name]
        for names in self._names.values():
            ours = names.get(name)
            if ours:
                return ours
        return 0

    def _start_of_chain(self, event: BlockStored) -> tuple[int | None, int]:
        """Our hash above the event's first block, and how many of its blocks can be hashed.

        The hash is None if it cannot be known. In vLLM's events a block's extra keys are, in this
        order, the LoRA name, `[media id, offset]` pairs, the cache salt (a prompt's first block
        only) and digests of embeddings.
        """
        rows = event.extra_keys
        if not rows:
            return self._parent(event, None), len(event.block_hashes)
        first = _without_adapter(rows[0], event.lora_name)
        salt: str | None = None
        if event.parent_block_hash is None and len(first) == 1 and isinstance(first[0], str):
            salt, first = first[0], []
            self.counters.salted += 1
        if first:
            return self._parent(event, None), 0
        textual = 1
        for row in rows[1 : len(event.block_hashes)]:
            if _without_adapter(row, event.lora_name):
                break
            textual += 1
        return self._parent(event, salt), min(textual, len(event.block_hashes))

    def _parent(self, event: BlockStored, salt: str | None) -> int | None:
        if event.parent_block_hash is None:
            return root_hash(event.lora_name, salt)
        return self._find(key_of(event.parent_block_hash)) or None


def _is_group(number: int | None) -> bool:
    return number is None or 0 <= number < GROUPS_MAX


def _without_adapter(row: list[Any] | None, lora_name: str | None) -> list[Any]:
    """A block's extra keys without the LoRA name that opens them."""
    if not row:
        return []
    if lora_name is not None and row[0] == lora_name:
        return row[1:]
    return row
