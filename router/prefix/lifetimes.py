"""How long a worker keeps what it was sent, learned from what its answers say was cached.

For workers whose events do not tell. A cache that drops what was used longest ago behaves much as
if it dropped everything after one characteristic time (Che, Tung and Wang, Hierarchical Web
Caching Systems, 2002, section 3.1), which follows from its size and its traffic. That time is
estimated for each target: every answer that reports cached tokens, to a prompt whose beginning
was computed there before, tells whether that beginning has survived its age.

What was computed is remembered by a few hashes a prompt (blocks 1, 2, 4, 8, … and the last),
longer than it is believed, so that a time that became too short is found out as well.

Pure: times are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

from router.prefix.prediction import Kept

LIFETIME_S_RANGE = (1.0, 3600.0)
_SEEN_PER_TARGET_MAX = 8192
_SEEN_MAX = 262_144
_SPARE = 64
_FIRST_FACTOR = 4.0
"""The first loss says that the time is not far above its age."""
_STEP_UP = 0.2
_STEP_DOWN = 0.05
"""Believing too long costs little: the request goes where it would be as well off as anywhere.
Believing too short tears conversations from where they are, whose copies then crowd the caches
and shorten the time further; so a loss moves the time by less than a survival."""
_RATIO_MAX = 2.0
"""One observation moves the time by at most that to the power of the step: an engine may lose
blocks for reasons of its own."""
_MOST = 0.9
"""An answer that reports this share of the blocks, less one, has all: it may count a little less
than is held."""


@dataclass(slots=True)
class _Target:
    kv_tokens: int | None = None
    lifetime_s: float | None = None
    seen: dict[int, float] = field(default_factory=dict)
    """When blocks were last computed or reused, longest ago first."""


class LearnedLifetimes:
    """What is known of each target's characteristic time."""

    def __init__(self) -> None:
        self._targets: dict[str, _Target] = {}

    def __len__(self) -> int:
        """Hashes that are remembered, of all targets."""
        return sum(len(one.seen) for one in self._targets.values())

    def add(self, target: str, kv_tokens: int | None) -> None:
        """A target has come; its cache is said to hold that many tokens."""
        self._targets.setdefault(target, _Target()).kv_tokens = kv_tokens

    def remove(self, target: str) -> None:
        """Forgets a target that left; one that comes back has an empty cache."""
        self._targets.pop(target, None)

    def lifetime_s(self, target: str) -> float | None:
        """How long a block is kept after its last use, within `LIFETIME_S_RANGE`; None while
        nothing was seen to be lost."""
        known = self._targets.get(target)
        return known.lifetime_s if known is not None else None

    def kept(self, target: str, block_tokens: int, unknown_s: float) -> Kept:
        """How long the target is taken to keep blocks of that size: for the time learned, and no
        more of them than its cache can hold; for `unknown_s` where neither is known."""
        known = self._targets.get(target)
        if known is None:
            return Kept(unknown_s)
        if known.kv_tokens is None:
            return Kept(known.lifetime_s or unknown_s)
        most = max(1, known.kv_tokens // block_tokens)
        return Kept(known.lifetime_s or LIFETIME_S_RANGE[1], most)

    def answered(
        self,
        target: str,
        hashes: Sequence[int],
        cached_blocks: float | None,
        assigned_at_s: float,
        now_s: float,
    ) -> None:
        """A request that was sent to the target at `assigned_at_s` was answered whole.

        `cached_blocks` of its prompt were cached by the answer's own count, if it gave one.
        """
        known = self._targets.get(target)
        if known is None or not hashes:  # it may have left before its answer was over
            return
        if cached_blocks is not None:
            age_s, blocks = _newest(known.seen, hashes, assigned_at_s)
            if age_s is not None:
                known.lifetime_s = _moved(
                    known.lifetime_s, age_s, survived=cached_blocks >= blocks * _MOST - 1
                )
        seen = known.seen
        for depth in _checkpoints(len(hashes)):
            block = hashes[depth - 1]
            seen.pop(block, None)
            seen[block] = now_s
        most = min(_SEEN_PER_TARGET_MAX, _SEEN_MAX // len(self._targets))
        if len(seen) > most:  # some more than that: finding the oldest is not for each request
            for block in list(islice(seen, len(seen) - most + most // _SPARE)):
                del seen[block]


@lru_cache(maxsize=4096)
def _checkpoints(blocks: int) -> tuple[int, ...]:
    """Depths at which a prompt is remembered, deepest first: what is used at the same time is
    dropped from its end on, so its beginning counts as newer."""
    powers = [1 << power for power in reversed(range(blocks.bit_length()))]
    return tuple(dict.fromkeys([blocks, *powers]))


def _newest(
    seen: dict[int, float], hashes: Sequence[int], assigned_at_s: float
) -> tuple[float | None, int]:
    """Age and depth of the deepest beginning that was computed before; no age if there is none, or
    if it was computed only after this request was sent."""
    for depth in _checkpoints(len(hashes)):
        at_s = seen.get(hashes[depth - 1])
        if at_s is not None:
            return (assigned_at_s - at_s, depth) if at_s < assigned_at_s else (None, depth)
    return None, 0


def _moved(lifetime_s: float | None, age_s: float, *, survived: bool) -> float | None:
    low, high = LIFETIME_S_RANGE
    if lifetime_s is None:
        return None if survived else max(low, min(high, _FIRST_FACTOR * age_s))
    if survived is (age_s <= lifetime_s):
        return lifetime_s  # as expected
    ratio = max(1 / _RATIO_MAX, min(_RATIO_MAX, age_s / lifetime_s))
    step = _STEP_UP if survived else _STEP_DOWN
    return max(low, min(high, float(lifetime_s * ratio**step)))
