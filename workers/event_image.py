"""What an engine holds now, kept from its KV events for routers that come late.

A ring of past batches ends where it began, and what an engine has held for hours is not in it. The
image holds every block with what its event said of it (parent, token ids, adapter, extra keys),
bounded by the engine's own number of blocks. A snapshot of it is batches of `BlockStored`, parents
before children: whoever applies them to nothing, and then the live batches from the next sequence
on, knows what somebody knows who heard everything. A gap, a restart or an unreadable batch empties
the image, which then knows only what came since.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from rhizome.wire.kv_events import (
    BlockRemoved,
    BlockStored,
    EngineHash,
    KVEvent,
    KVEventBatch,
    SnapshotEnd,
    UndecodableBatch,
    decode_batch,
    encode_batch,
)

BLOCKS_MAX = 2**20
"""Bound on a medium whose size is not known."""
_BLOCKS_PER_PART = 1024
_RECORDS_PER_TURN = 4096
_PLACES_MAX = 256
_DEVICE = "GPU"
_ID_CODE = "I" if array("I").itemsize == 4 else "L"

Place = tuple[str, int]
"""Medium and KV cache group; what an event leaves out is the device and the first group."""


class _About(NamedTuple):
    """What many blocks have in common."""

    block_size: int
    lora_name: str | None
    extra: tuple[Any, ...] | None


class _Block(NamedTuple):
    parent: EngineHash | None
    tokens: bytes | None
    """Packed ids; None: only its name is known."""
    about: _About | None


@dataclass(slots=True)
class _Held:
    """One medium's blocks of one group, oldest first."""

    kind: str | None = None
    window: int | None = None
    block_size: int = 0
    blocks: dict[EngineHash, _Block] = field(default_factory=dict)
    more: dict[EngineHash, int] = field(default_factory=dict)
    """Copies beyond the first."""
    copies: int = 0

    def add(self, name: EngineHash, block: _Block) -> None:
        self.copies += 1
        known = self.blocks.get(name)
        if known is None or (known.tokens is None and block.tokens is not None):
            self.blocks[name] = block
        if known is not None:
            self.more[name] = self.more.get(name, 0) + 1

    def remove(self, name: EngineHash) -> None:
        if name not in self.blocks:
            return
        self.copies -= 1
        more = self.more.pop(name, 0)
        if more > 1:
            self.more[name] = more - 1
        elif not more:
            del self.blocks[name]

    def drop_oldest(self) -> None:
        name = next(iter(self.blocks))
        del self.blocks[name]
        self.copies -= 1 + self.more.pop(name, 0)

    def empty(self) -> _Held:
        """The same group without its blocks."""
        return _Held(self.kind, self.window, self.block_size)

    def copy(self) -> _Held:
        facts = self.kind, self.window, self.block_size
        return _Held(*facts, self.blocks.copy(), self.more.copy(), self.copies)


class EventImage:
    """The image of one rank's cache."""

    def __init__(self) -> None:
        self.blocks_max: int | None = None
        """Blocks that the engine's device can hold, once it is known."""
        self.undecodable = 0
        """Batches that could not be read; only grows."""
        self.forgotten = 0
        """Blocks dropped since there were more than the engine can hold; only grows."""
        self._next: int | None = None
        self._ts = 0.0
        self._held: dict[Place, _Held] = {}
        self._about: _About | None = None

    def __len__(self) -> int:
        """Blocks of all media and groups, copies not counted."""
        return sum(len(held.blocks) for held in self._held.values())

    def take(self, sequence: int, payload: bytes) -> None:
        """Takes a batch as it was published."""
        if sequence != self._next:
            self._empty()
        self._next = sequence + 1
        try:
            batch = decode_batch(payload)
        except UndecodableBatch:
            self.undecodable += 1
            self._empty()
            return
        self._ts = batch.ts
        for event in batch.events:
            if isinstance(event, BlockStored):
                self._stored(event)
            elif isinstance(event, BlockRemoved):
                held = self._held.get(_place(event))
                for name in event.block_hashes if held is not None else ():
                    held.remove(name)  # type: ignore[union-attr]  # not None where it loops
            else:
                self._empty()

    def snapshot(self) -> Snapshot:
        """The image as it is now, whatever comes later."""
        sequence = -1 if self._next is None else self._next - 1
        held = {place: one.copy() for place, one in self._held.items()}
        return Snapshot(held, sequence, self._ts)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        for held in self._held.values():
            assert held.copies == len(held.blocks) + sum(held.more.values())
            assert set(held.more) <= set(held.blocks)
            assert all(more > 0 for more in held.more.values())
        for medium in {medium for medium, _ in self._held}:
            assert self._copies(medium) <= self._bound(medium)

    def _stored(self, event: BlockStored) -> None:
        place = _place(event)
        held = self._held.get(place)
        if held is None:
            if len(self._held) >= _PLACES_MAX:
                self.forgotten += len(event.block_hashes)
                return
            held = self._held[place] = _Held()
        if event.block_size:
            held.kind = event.kv_cache_spec_kind
            held.window = event.kv_cache_spec_sliding_window
            held.block_size = event.block_size
        if event.token_ids and event.blocks == len(event.block_hashes):
            self._add_chain(held, event)
        else:
            for name in event.block_hashes:
                held.add(name, _Block(None, None, None))
        self._keep_bound(place[0])

    def _add_chain(self, held: _Held, event: BlockStored) -> None:
        try:
            tokens = memoryview(array(_ID_CODE, event.token_ids)).cast("B")
        except OverflowError:
            return
        size = len(tokens) // len(event.block_hashes)
        rows = event.extra_keys or ()
        parent = event.parent_block_hash
        for number, name in enumerate(event.block_hashes):
            extra = rows[number] if number < len(rows) else None
            about = self._shared(event, extra)
            packed = bytes(tokens[number * size : (number + 1) * size])
            held.add(name, _Block(parent, packed, about))
            parent = name

    def _shared(self, event: BlockStored, extra: list[Any] | None) -> _About:
        """The last block's facts again, where they are the same."""
        keys = None if extra is None else tuple(extra)
        last = self._about
        if (
            last is None
            or last.extra != keys
            or last.lora_name != event.lora_name
            or last.block_size != event.block_size
        ):
            last = self._about = _About(event.block_size, event.lora_name, keys)
        return last

    def _empty(self) -> None:
        self._held = {place: held.empty() for place, held in self._held.items()}

    def _bound(self, medium: str) -> int:
        on_device = medium == _DEVICE
        return self.blocks_max if on_device and self.blocks_max is not None else BLOCKS_MAX

    def _copies(self, medium: str) -> int:
        return sum(held.copies for (other, _), held in self._held.items() if other == medium)

    def _keep_bound(self, medium: str) -> None:
        excess = self._copies(medium) - self._bound(medium)
        while excess > 0:
            of_medium = (held for (other, _), held in self._held.items() if other == medium)
            largest = max(of_medium, key=lambda held: held.copies)
            before = largest.copies
            largest.drop_oldest()
            self.forgotten += before - largest.copies
            excess -= before - largest.copies


def _place(event: BlockStored | BlockRemoved) -> Place:
    return (event.medium or _DEVICE).upper(), event.group_idx or 0


class Snapshot:
    """A copy of an image, to be read part by part; the parts together are consistent."""

    def __init__(self, held: dict[Place, _Held], sequence: int, ts: float) -> None:
        self._held = held
        self._sequence = sequence
        self._ts = ts
        self._named: set[EngineHash] = set()

    def end(self, parts: int) -> SnapshotEnd:
        """What it stands for."""
        return SnapshotEnd(self._sequence, self._ts, parts)

    def parts(self) -> Iterator[bytes | None]:
        """Payloads of event batches. None: nothing to send yet, but a turn's work is done."""
        batch: list[KVEvent] = [self._group(place) for place in self._held]
        blocks = 0
        for event in self._events():
            if event is None:
                yield None
                continue
            batch.append(event)
            blocks += max(1, len(event.block_hashes))
            if blocks >= _BLOCKS_PER_PART:
                yield self._encoded(batch)
                batch, blocks = [], 0
        if batch:
            yield self._encoded(batch)

    def _events(self) -> Iterator[BlockStored | None]:
        sizes = {held.block_size for held in self._held.values() if held.block_size}
        for size in sorted(sizes):
            yield from self._chains(size)
        for place, held in self._held.items():
            yield from self._by_name(place, held)

    def _chains(self, block_size: int) -> Iterator[BlockStored | None]:
        """Every chain of blocks of this size whose beginning is known, in the places it is in."""
        blocks: dict[EngineHash, _Block] = {}
        children: dict[EngineHash | None, list[EngineHash]] = {}
        seen = 0
        for held in self._held.values():
            for name, block in held.blocks.items():
                seen += 1
                if not seen % _RECORDS_PER_TURN:
                    yield None
                if block.about is None or block.about.block_size != block_size or name in blocks:
                    continue
                blocks[name] = block
                children.setdefault(block.parent, []).append(name)
        roots = [
            name
            for parent, names in children.items()
            if parent is None or parent in self._named
            for name in names
        ]
        while roots:
            chain = [roots.pop()]
            while len(chain) < _BLOCKS_PER_PART:
                following = children.get(chain[-1], ())
                if len(following) != 1 or blocks[following[0]].about != blocks[chain[0]].about:
                    roots.extend(following)
                    break
                chain.append(following[0])
            else:
                roots.extend(children.get(chain[-1], ()))
            self._named.update(chain)
            yield from self._of_chain(chain, blocks)

    def _of_chain(
        self, chain: list[EngineHash], blocks: dict[EngineHash, _Block]
    ) -> Iterator[BlockStored]:
        """The chain's blocks in each place that has some; what begins earlier comes first, so that
        every run finds its parent named."""
        runs: list[tuple[int, int, Place]] = []
        for place, held in self._held.items():
            begin: int | None = None
            for number, name in enumerate([*chain, None]):
                known = held.blocks.get(name) if name is not None else None
                is_here = known is not None and known.tokens is not None
                if is_here and begin is None:
                    begin = number
                elif not is_here and begin is not None:
                    runs.append((begin, number, place))
                    begin = None
        for begin, end, place in sorted(runs, key=lambda run: run[0]):
            first = blocks[chain[begin]]
            assert first.about is not None
            tokens = array(_ID_CODE)
            for name in chain[begin:end]:
                tokens.frombytes(blocks[name].tokens or b"")
            extra = None if first.about.extra is None else list(first.about.extra)
            yield self._group(
                place,
                names=chain[begin:end],
                parent=first.parent,
                tokens=tokens.tolist(),
                lora=first.about.lora_name,
                extra=None if extra is None else [extra] * (end - begin),
            )

    def _by_name(self, place: Place, held: _Held) -> Iterator[BlockStored]:
        """What can be told by name only: blocks whose tokens were not said, and further copies."""
        bare = [name for name, block in held.blocks.items() if block.tokens is None]
        again = [name for name, more in held.more.items() for _ in range(more)]
        names = iter([name for name in (*bare, *again) if name in self._named])
        while part := list(islice(names, _BLOCKS_PER_PART)):
            yield self._group(place, names=part)

    def _group(
        self,
        place: Place,
        names: list[EngineHash] | None = None,
        parent: EngineHash | None = None,
        tokens: list[int] | None = None,
        lora: str | None = None,
        extra: list[list[Any] | None] | None = None,
    ) -> BlockStored:
        medium, group = place
        held = self._held[place]
        return BlockStored(
            block_hashes=names or [],
            parent_block_hash=parent,
            token_ids=tokens or [],
            block_size=held.block_size,
            medium=medium,
            lora_name=lora,
            extra_keys=extra,
            group_idx=group,
            kv_cache_spec_kind=held.kind,
            kv_cache_spec_sliding_window=held.window,
        )

    def _encoded(self, events: list[KVEvent]) -> bytes:
        return encode_batch(KVEventBatch(ts=self._ts, events=events))
