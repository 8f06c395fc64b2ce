"""Many decode steps at once: how many may be taken together, when each ends, what they do.

While all running requests decode and nobody can be admitted, a step differs from the one before
only by one more token of context for each request. Its length therefore grows by a constant, the
end of the n-th one is a closed form, and blocks are needed and filled at known steps. The results
are those of single steps, event for event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from workers.engine.simulated.cache import BlockPool
from workers.engine.simulated.profile import EngineProfile, StepWork
from workers.engine.simulated.requests import Progress, Started

SAME_S = 1e-9
"""Times no further apart are one time: sums of step lengths differ in their last digits from the
closed form, and must not decide whether a step ends before something else happens."""


@dataclass(slots=True)
class Row:
    """The step under way, or the row of like steps that it begins."""

    start_s: float
    first_s: float = 0.0
    """Length of the first step."""
    growth_s: float = 0.0
    """By how much each step is longer than the one before."""
    steps: int = 1
    scheduled: dict[Progress, int] = field(default_factory=dict)
    """Tokens that each request computes in a step."""
    prefill_tokens: int = 0
    started: list[Started] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)

    def end_s(self, steps: int) -> float:
        """When the step of that number (from 1) ends."""
        growth_s = steps * (steps - 1) / 2 * self.growth_s
        return self.start_s + steps * self.first_s + growth_s

    def steps_by(self, until_s: float) -> int:
        """How many of its steps end until then."""
        until_s += SAME_S
        if self.end_s(self.steps) <= until_s:
            return self.steps
        if self.steps == 1 or self.end_s(1) > until_s:
            return 0
        span_s = until_s - self.start_s
        if self.growth_s > 0.0:
            half = self.first_s - self.growth_s / 2
            guess = int((sqrt(half * half + 2 * self.growth_s * span_s) - half) / self.growth_s)
        else:
            guess = int(span_s / self.first_s)
        steps = max(1, min(guess, self.steps - 1))
        while self.end_s(steps) > until_s:
            steps -= 1
        while self.end_s(steps + 1) <= until_s:
            steps += 1
        return steps


def measure(row: Row, profile: EngineProfile) -> None:
    """How long the step takes, by the profile."""
    context = prefill = decoding = 0
    area = 0.0
    for progress, count in row.scheduled.items():
        computed, tokens = progress.computed, progress.tokens
        if computed == tokens - 1 and tokens > progress.prompt_len:  # `decoding`, in line
            decoding += 1
            context += computed + 1
        else:
            prefill += count
            area += count * (computed + count / 2)
    row.prefill_tokens = prefill
    if row.scheduled:
        row.first_s = profile.step_s(StepWork(len(row.scheduled), decoding, context, prefill, area))
        row.growth_s = profile.c_ms_per_ktok * decoding / 1e6


def steps_with_room(running: Sequence[Progress], block_size: int, free: int, steps: int) -> int:
    """The most steps, at most `steps`, for which `free` blocks are enough.

    The blocks of the first one are taken already.
    """

    if len(running) * -(-(steps - 1) // block_size) <= free:
        return steps  # none needs more than the blocks that its further tokens would fill

    def needed(count: int) -> int:
        return sum(
            -(-(each.computed + count) // block_size) - len(each.blocks) - each.blank
            for each in running
        )

    if needed(steps) <= free:
        return steps
    fits, too_many = 1, steps
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if needed(middle) <= free:
            fits = middle
        else:
            too_many = middle
    return fits


def steps_before_publication(running: Sequence[Progress], block_size: int, steps: int) -> int:
    """The most steps, at most `steps`, of which only the first may fill a block."""
    for each in running:
        filled = -(each.computed + 1) % block_size or block_size
        steps = min(steps, filled)
    return steps


def fill_blocks(running: Sequence[Progress], pool: BlockPool, block_size: int, steps: int) -> None:
    """Takes and publishes the blocks of steps 2 to `steps`, in the order of single steps."""
    takes: list[int] = []
    publications: list[int] = []
    width = 2 * len(running)
    end = (steps + 1) * width
    for order, each in enumerate(running):
        before = -each.computed % block_size
        take = before + 1 if before else block_size + 1
        takes += range(take * width + 2 * order, end, block_size * width)
        if pool.caching:
            full = before if before > 1 else max(2, before + block_size)
            publications += range(full * width + 2 * order + 1, end, block_size * width)
    if len(takes) <= pool.blank:
        # Nothing is evicted, so that only the order of publications can be seen.
        pool.take(len(takes))
        for change in takes:
            running[change % width // 2].blank += 1
        takes = []
    for change in sorted(takes + publications):
        each = running[change % width // 2]
        if change % 2:
            _publish(each, len(each.blocks) + 1, pool)
        else:
            pool.take(1)
            each.blank += 1


def extend(progress: Progress, tokens: int, decided: int, pool: BlockPool, block_size: int) -> bool:
    """Gives a request the blocks for its first `tokens` tokens and publishes the full ones.

    Only the first `decided` tokens are certain, and no block with others is published. False, and
    nothing is changed, without enough room.
    """
    needed = -(-tokens // block_size) - len(progress.blocks) - progress.blank
    if needed > 0:
        if needed > pool.free:
            return False
        pool.take(needed)
        progress.blank += needed
    full = min(tokens, decided) // block_size
    if full > len(progress.blocks) and pool.caching:
        _publish(progress, full, pool)
    return True


def _publish(progress: Progress, full: int, pool: BlockPool) -> None:
    """Makes its first `full` blocks findable, of which the first ones are already."""
    request, known = progress.request, len(progress.blocks)
    keys = request.keys_of(known, full)
    parent = request.key_of(known - 1) if known else None
    progress.blocks += pool.publish(request.request_id, known, keys, parent)
    progress.blank -= full - known
