"""How far each target can reuse a prompt, from the sets of targets that hold its blocks.

Targets are bits of masks, and a prompt falls into few runs of blocks that the same targets hold, so
that the work is by runs and sets of targets rather than by blocks and targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from itertools import pairwise, repeat
from operator import and_, or_

import numpy as np

from router.prefix.chain import spread_of
from router.prefix.credit import Ints
from router.prefix.holdings import Holdings
from router.prefix.layout import PLAIN, Group, Layer, Layout, Tier
from router.prefix.table import Numbers, Spread

Run = tuple[int, int, int]
"""Blocks from the first to before the second number, and the targets that hold them as bitmask."""
Ending = tuple[int, int]
"""Targets, as bitmask, and the number of leading blocks that they reuse."""
_NARROWED_TO = 16
_FEW_LOOKS = 12
"""Below so many blocks one look after the other is quicker than all at once."""
_FEW_SLOTS = 24
"""Up to so many, one by one is quicker than all at once."""


@dataclass(frozen=True, slots=True)
class GroupsRun:
    """Blocks of a prompt, from `begin` to before `end`, that the same targets hold."""

    begin: int
    end: int
    full: int
    """The targets that hold them in every group of full attention."""
    parts: tuple[int, ...]
    """The same for those of each other part of the layout."""


class Columns:
    """For each layer asked for, the number of the set of targets that holds each block."""

    def __init__(
        self,
        hashes: Sequence[int],
        layers: Mapping[Layer, Holdings],
        predicted: Mapping[int, int],
        trusted: int,
    ) -> None:
        """`predicted` are masks of targets by block, of targets that will hold it; `trusted` are
        the targets whose truth counts. Predictions count for all."""
        self._hashes = hashes
        self._layers = layers
        self._predicted = predicted
        self._trusted = trusted

    @cached_property
    def _spread(self) -> Spread:
        return spread_of(self._hashes)

    @cached_property
    def _guessed(self) -> tuple[Sequence[int], Numbers]:
        """The sets of targets that are predicted to hold a block, and which of them each is."""
        return _numbered([self._predicted.get(block, 0) for block in self._hashes])

    def _predicted_runs(self) -> list[Run]:
        """Runs of the blocks that are predicted, as far as any is."""
        get, begin, held, runs = self._predicted.get, 0, 0, []
        for at, block in enumerate(self._hashes):
            mask = get(block, 0)
            if mask != held:
                if at:
                    runs.append((begin, at, held))
                begin, held = at, mask
            if not mask:
                return runs
        runs.append((begin, len(self._hashes), held))
        return runs

    def plain_runs(self) -> list[Run]:
        """Runs of the blocks that lie on devices or are predicted to, as far as any is."""
        truth = self._layers[PLAIN]
        if not len(truth):
            return self._predicted_runs()
        count = self._reach(truth)
        part = self._hashes if count == len(self._hashes) else self._hashes[:count]
        if not part:
            return []
        is_few = count < _FEW_LOOKS
        numbers = truth.along_few(part) if is_few else truth.along(self._spread[:count])
        masks, trusted = truth.sets.masks, self._trusted
        guess, found = 0, []
        if self._predicted and not self._predicted.keys().isdisjoint(part):
            found = list(map(self._predicted.get, part, repeat(0)))
            guess = found[0] if found.count(found[0]) == len(found) else -1
        if guess >= 0:
            begins, (held,) = _runs([numbers])
            return [
                (begin, end, masks[number] & trusted | guess)
                for begin, end, number in zip(begins, begins[1:], held, strict=False)
            ]
        guesses, places = _numbered(found)
        begins, (held, guessed) = _runs([numbers, places])
        return [
            (begin, end, masks[number] & trusted | guesses[guess])
            for begin, end, number, guess in zip(begins, begins[1:], held, guessed, strict=False)
        ]

    def _reach(self, truth: Holdings) -> int:
        """Blocks after which there is one that nobody holds, if any is left: most prompts part from
        all others somewhere, and what comes then need not be looked at."""
        low, high = 0, len(self._hashes)
        place = high - 1
        while high - low > _NARROWED_TO:
            block = self._hashes[place]
            if block in self._predicted or truth.holds(block):
                low = place + 1
            else:
                high = place
            place = (low + high) // 2
        return high

    def tier_runs(self, tiers: Sequence[Tier]) -> list[Run]:
        """Runs of the blocks that lie in any of the tiers, in the first group."""
        family = [self._truth(Layer(tier), 1) for tier in tiers]
        begins, columns = _runs([numbers for _, numbers in family])
        masks = [_masks(sets, column) for (sets, _), column in zip(family, columns, strict=True)]
        return [
            (begin, end, reduce(or_, held) & self._trusted)
            for begin, end, *held in zip(begins, begins[1:], *masks, strict=False)
        ]

    def runs(self, layout: Layout) -> list[GroupsRun]:
        """Runs of the blocks that lie on devices, for each kind of group of the layout."""
        families = [layout.full, *layout.parts]
        groups = [self._of(group) for family in families for group in family]
        numbers = [numbers for _, numbers in groups]
        if self._predicted:
            numbers.append(self._guessed[1])
        begins, columns = _runs(numbers)
        masks = [_masks(sets, col) for (sets, _), col in zip(groups, columns, strict=False)]
        guesses = [0] * len(begins)
        if self._predicted:
            guesses = _masks(self._guessed[0], columns[-1])
        found = []
        for run, (begin, end) in enumerate(pairwise(begins)):
            held = iter(masks)
            full, *parts = (
                reduce(and_, (next(held)[run] for _ in family), self._trusted) | guesses[run]
                for family in families
            )
            found.append(GroupsRun(begin, end, full, tuple(parts)))
        return found

    def _of(self, group: Group) -> tuple[Sequence[int], Numbers]:
        return self._truth(Layer(Tier.DEVICE, group.number), group.span)

    def _truth(self, layer: Layer, span: int) -> tuple[Sequence[int], Numbers]:
        """The layer's sets and which of them holds each block; where one of its blocks spans
        several of ours, it is found under the last of them."""
        holdings = self._layers.get(layer)
        count = len(self._hashes)
        if holdings is None or span > count:
            return (0,), np.zeros(count, np.uint64)
        numbers = holdings.along(self._spread[span - 1 :: span])
        if span > 1:
            numbers = np.append(np.repeat(numbers, span), np.zeros(count % span, np.uint64))
        return holdings.sets.masks, numbers


def leading(runs: Iterable[Run], targets: int, depth: int = 0) -> list[Ending]:
    """How far the targets hold the blocks from `depth` on, for those that hold any."""
    end, endings = depth, []
    for begin, end, mask in runs:
        if not targets:
            break
        if end <= depth:
            continue
        still = targets & mask
        if still != targets:
            if begin > depth:
                endings.append((targets ^ still, begin))
            targets = still
    if targets and end > depth:
        endings.append((targets, end))
    return endings


def cut_short(endings: Iterable[Ending], blocks: int) -> list[Ending]:
    """The same with so many blocks less, for those that have more."""
    return [(mask, depth - blocks) for mask, depth in endings if depth > blocks]


def by_slots(endings: Sequence[Ending], slots: int) -> Ints:
    """The number of leading blocks of each target, by its bit; 0 for those in no ending. No
    target is in two."""
    if slots <= _FEW_SLOTS:
        depths = [0] * slots
        for mask, depth in endings:
            left = mask
            while left:
                depths[left.bit_length() - 1] = depth
                left ^= 1 << left.bit_length() - 1
        return np.array(depths, np.int64)
    if not endings:
        return np.zeros(slots, np.int64)
    if len(endings) == 1:
        mask, depth = endings[0]
        return _members(mask, slots) * depth
    length = slots + 7 >> 3
    masks, reused = zip(*endings, strict=True)
    data = b"".join([mask.to_bytes(length, "little") for mask in masks])
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    # No target is in two masks, so that the sum over them is the one that it is in.
    weights = np.array(reused, np.float32)
    rows = bits.reshape(len(endings), -1)[:, :slots].astype(np.float32)
    return (weights @ rows).astype(np.int64)


@lru_cache(maxsize=1024)
def _members(mask: int, slots: int) -> Ints:
    """1 for each target of the mask, 0 for the others."""
    held = np.frombuffer(mask.to_bytes(slots + 7 >> 3, "little"), np.uint8)
    return np.unpackbits(held, bitorder="little", count=slots).astype(np.int64)


def reusable(runs: Sequence[GroupsRun], targets: int, layout: Layout) -> Iterator[Ending]:
    """How far each of the targets can reuse a prompt, for those that can at all.

    The greatest length on which all groups agree: each part takes it down to the longest that it
    allows, until none does (as in vLLM's `find_longest_cache_hit`).
    """
    parts = [groups[0] for groups in layout.parts]
    alignment = layout.alignment
    waiting = []
    for mask, held in leading(((run.begin, run.end, run.full) for run in runs), targets):
        depth = max(0, held - layout.again)
        waiting.append((mask, depth - depth % alignment, 0, 0))
    while waiting:
        mask, depth, place, agreed = waiting.pop()
        if depth and agreed == len(parts):
            yield mask, depth
        elif depth:
            among = [(run.begin, run.end, run.parts[place]) for run in runs]
            for part, allowed in _allowed(among, mask, depth, parts[place], alignment):
                others = agreed + 1 if allowed == depth else 1
                waiting.append((part, allowed, (place + 1) % len(parts), others))


def _allowed(
    runs: Sequence[Run], targets: int, depth: int, group: Group, alignment: int
) -> list[Ending]:
    """For each of the targets the longest prefix of at most `depth` blocks that groups like this
    one allow to be reused."""
    if group.chunk is not None:
        return _within_chunk(runs, targets, depth, group.chunk)
    return _within_window(runs, targets, depth, group, alignment)


def _within_chunk(runs: Sequence[Run], targets: int, depth: int, chunk: int) -> list[Ending]:
    """Prefixes whose blocks in the chunk where `depth` lies are there."""
    start = depth - depth % chunk
    cut = ((begin, min(end, depth), mask) for begin, end, mask in runs if begin < depth)
    endings = leading(cut, targets, start)
    for mask, _ in endings:
        targets &= ~mask
    return [*endings, (targets, start)] if targets else endings


def _within_window(
    runs: Sequence[Run], targets: int, depth: int, group: Group, alignment: int
) -> list[Ending]:
    """Prefixes whose last blocks, as many as the window has, or all where there are fewer, are
    there, and those that are computed again; looked for from the right."""
    again, size = group.again, (group.window or 0) + group.again
    endings: list[Ending] = []
    begun: list[Ending] = []
    for begin, run_end, held in reversed(runs):
        if begin >= depth + again:
            continue
        present = fresh = held & targets
        goes_on: list[Ending] = []
        for mask, end in begun:
            fresh &= ~mask
            if mask & present:
                goes_on.append((mask & present, end))
        end = min(run_end, depth + again)
        end -= (end - again) % alignment
        if fresh and end > begin:
            goes_on.append((fresh, end))
        begun = []
        for mask, end in goes_on:
            if end - begin >= size:
                endings.append((mask, end - again))
                targets &= ~mask
            else:
                begun.append((mask, end))
        if not targets:
            return endings
    # What is left reaches back to the first block, which is enough however short it is.
    for mask, end in begun:
        short = max(0, end - end % alignment - again)
        endings.append((mask, short - short % alignment))
    return endings


def _runs(columns: Sequence[Numbers]) -> tuple[list[int], list[list[int]]]:
    """Where the runs begin in which no column changes, and at last where they end; and each
    column's number in each run."""
    count = len(columns[0])
    if not count:
        return [], [[] for _ in columns]
    differs = columns[0][1:] != columns[0][:-1]
    for column in columns[1:]:
        differs |= column[1:] != column[:-1]
    begins = differs.nonzero()[0] + 1
    if not len(begins):
        return [0, count], [[int(column[0])] for column in columns]
    found = [[int(column[0]), *column[begins].tolist()] for column in columns]
    return [0, *begins.tolist(), count], found


def _numbered(masks: Sequence[int]) -> tuple[Sequence[int], Numbers]:
    """The masks, each once, and which of them each block has."""
    places = {mask: place for place, mask in enumerate(dict.fromkeys(masks))}
    numbers = np.fromiter(map(places.__getitem__, masks), np.uint64, len(masks))
    return list(places), numbers


def _masks(sets: Sequence[int], numbers: Sequence[int]) -> list[int]:
    return [sets[number] for number in numbers]
