"""The course of a calibration: what is measured in which order, within a budget of time.

One round holds all that the model needs; rounds repeat while the budget lasts. A prompt length or
number of sequences that would take too much of what is left is skipped, and said so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from loadtest.calibration.fitting import Fit, Observation, fit
from loadtest.calibration.probes import Probes, Prompts, budget_of_chunks
from loadtest.calibration.target import CacheFacts, EngineTarget, Served
from rhizome.clock import Clock
from rhizome.errors import TargetUnusable

Told = Callable[[float, str], None]
"""Takes the share of the budget that is used and what happens now."""

_VOCABULARIES = (1_000, 8_000, 32_000, 100_000)
_WARM_LENGTHS = (8, 256, 256)
_TINY = 4
_TINY_REPEATS = 5
_BUDGET_UNKNOWN = 2**30
_LENGTH_UNKNOWN = 2**31
_ROOM_TO_DECODE = 160
_NO_SMALL_REST = 0.85
"""Of a power of two: cut by smaller powers of two, it leaves no last chunk too small to see."""
_OBSERVERS = 2
"""Streams that show the chunks of a prompt."""
_TRIES = 5
_ATTEMPTS = 272
"""Streams sent at once to see how many run: more than vLLM's smallest defaults."""
_SHARE_MAX = 0.15
"""Of the time left, for one measurement."""


@dataclass(frozen=True, slots=True)
class Course:
    """What the user asked for."""

    time_s: float = 120.0
    rounds_max: int = 5
    prompt_max: int = 8_192
    sequences_max: int = 64
    vocabulary: int | None = None
    seed: int = 1


@dataclass(slots=True)
class Measured:
    """All that was found out."""

    served: Served
    engine_version: str
    cache: CacheFacts | None
    vocabulary: int
    rounds: int = 0
    seconds: float = 0.0
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    longest_chunk: int = 0
    """A prompt of so many tokens was computed in one step."""
    observations: list[Observation] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def chunk(self) -> int:
        """Most prompt tokens in one step, as far as is known."""
        return self.max_num_batched_tokens or _BUDGET_UNKNOWN

    def fit(self) -> Fit:
        """The step model of what was observed."""
        return fit(self.observations)


class Measuring:
    """One calibration of one engine."""

    def __init__(self, target: EngineTarget, course: Course, clock: Clock, told: Told) -> None:
        self._target = target
        self._course = course
        self._clock = clock
        self._told = told
        self._begun_s = clock.monotonic_s()
        self._random = Random(course.seed)

    async def run(self, model: str | None) -> Measured:
        """Measures until all rounds are done or the time is over; raises `TargetUnusable`."""
        served = await self._target.find_model(model)
        cache = await self._target.cache_facts()
        version = await self._target.version()
        found = Measured(served, version, cache, await self._find_vocabulary())
        prompts = Prompts(self._random, found.vocabulary)
        length_max = served.max_model_len or _LENGTH_UNKNOWN
        self._probes = Probes(self._target, prompts, self._clock, length_max)
        self._tell("warming up")
        for length in _WARM_LENGTHS:
            await self._probes.prefill(self._room(found, length), _BUDGET_UNKNOWN, "warm-up")
        await self._find_limits(found)
        while found.rounds < self._course.rounds_max:
            complete = await self._round(found)
            if not complete:
                break
            found.rounds += 1
        if found.rounds == 0:
            raise TargetUnusable(
                f"not even one round of measurements fits into {self._course.time_s:g} s",
                advice="give more time with --budget-s, or less to do with --prompt-max and "
                "--sequences-max",
            )
        found.seconds = self._used_s
        return found

    async def _find_vocabulary(self) -> int:
        """As told, else the largest of a few sizes whose last id the engine takes."""
        if self._course.vocabulary is not None:
            return self._course.vocabulary
        accepted = 0
        for size in _VOCABULARIES:
            if not await self._target.accepts([size - 1]):
                break
            accepted = size
        if not accepted:
            raise TargetUnusable(
                f"{self._target.url} refuses a prompt of one token id",
                advice="it must take token ids on /v1/completions; name a vocabulary below 1000 "
                "with --vocab-size",
            )
        return accepted

    async def _find_limits(self, found: Measured) -> None:
        """Token budget and most sequences, as far as they show."""
        self._tell("looking for the token budget")
        length = int(self._room(found, self._course.prompt_max) * _NO_SMALL_REST)
        alone = await self._probes.prefill(length // 4, _BUDGET_UNKNOWN, "warm-up")
        if alone.ms * 6 / 1e3 < self._left_s * _SHARE_MAX:
            chunks = await self._count_chunks(length)
            found.max_num_batched_tokens = budget_of_chunks(length, _OBSERVERS, chunks)
            if chunks == 1:
                found.longest_chunk = length
        else:
            found.skipped.append("the token budget: prompts take too long")
        self._tell("looking for the most sequences at once")
        found.max_num_seqs = await self._probes.sequences_max(_ATTEMPTS)

    async def _count_chunks(self, length: int) -> int:
        """Into how many steps a prompt is cut: the least of five tries, if most saw it, since other
        work on the machine makes steps longer and never shorter; else 0."""
        tries = [await self._probes.mixed(_OBSERVERS, 16, length) for _ in range(_TRIES)]
        seen = [mixed.long_gaps for mixed in tries]
        least = min(seen)
        return least if seen.count(least) > _TRIES // 2 else 0

    async def _round(self, found: Measured) -> bool:
        """All measurements once; False when the time was over before."""
        for step in (self._tiny, self._prefill, self._bursts, self._decode, self._contexts):
            if self._left_s <= 0 or not await step(found):
                return False
        if self._left_s > 0:
            await self._mix(found)
        return True

    async def _tiny(self, found: Measured) -> bool:
        self._tell("fixed costs of a request")
        for _ in range(_TINY_REPEATS):
            kind = "a tiny prompt"
            found.observations.append(await self._probes.prefill(_TINY, found.chunk, kind))
        return True

    async def _prefill(self, found: Measured) -> bool:
        last = None
        for length in self._lengths(found):
            if last is not None and last.ms * 5 / 1e3 > self._left_s * _SHARE_MAX:
                self._skip(found, f"prompts of {length} tokens: too long for the time")
                break
            self._tell(f"prefill of {length} tokens")
            last = await self._probes.prefill(length, found.chunk, "prefill")
            found.observations.append(last)
        return last is not None

    async def _bursts(self, found: Measured) -> bool:
        length = self._room(found, 512)
        for count in (2, 4):
            if self._left_s <= 0:
                return False
            self._tell(f"{count} prompts at once")
            found.observations.append(await self._probes.burst(length, count, found.chunk))
        return True

    async def _decode(self, found: Measured) -> bool:
        most = min(self._course.sequences_max, found.max_num_seqs or self._course.sequences_max)
        sequences, enough = 1, 0
        while sequences <= most and self._left_s > 0:
            self._tell(f"decoding {sequences} sequences")
            seen = await self._probes.decode(sequences, 32, "decode")
            if seen is not None:
                found.observations.append(seen)
                enough += 1
            sequences *= 2
        return enough >= min(2, most)

    async def _contexts(self, found: Measured) -> bool:
        """Decoding with long contexts, as long as their prefill and the cache allow."""
        kv_tokens = found.cache.block_size * found.cache.kv_blocks if found.cache else 2**15
        costs = found.fit().costs
        for context in (self._room(found, 1024), self._room(found, self._course.prompt_max) // 2):
            for sequences in (2, 8):
                prefill_s = costs.d_ms_per_ktok * context * sequences / 1e6
                if context * sequences > kv_tokens // 2 or prefill_s > self._left_s * _SHARE_MAX:
                    self._skip(found, f"{sequences} contexts of {context} tokens: too much")
                    continue
                self._tell(f"decoding {sequences} sequences of {context} tokens")
                seen = await self._probes.decode(sequences, context, "decode, long context")
                if seen is not None:
                    found.observations.append(seen)
        return True

    async def _mix(self, found: Measured) -> None:
        self._tell("prefill among decoding")
        mixed = await self._probes.mixed(4, 64, self._room(found, 1024))
        if mixed.observation is not None:
            found.observations.append(mixed.observation)

    def _lengths(self, found: Measured) -> list[int]:
        longest = self._room(found, self._course.prompt_max)
        lengths = [
            length for length in (64, 256, 1024, 2048, 4096, 8192, 16384, 32768) if length < longest
        ]
        return [*lengths, longest]

    def _room(self, found: Measured, length: int) -> int:
        """`length`, or as much as the model takes with some tokens to make."""
        most = (found.served.max_model_len or _LENGTH_UNKNOWN) - _ROOM_TO_DECODE
        return max(1, min(length, most))

    def _skip(self, found: Measured, words: str) -> None:
        if found.rounds == 0:
            found.skipped.append(words)

    @property
    def _used_s(self) -> float:
        return self._clock.monotonic_s() - self._begun_s

    @property
    def _left_s(self) -> float:
        return self._course.time_s - self._used_s

    def _tell(self, words: str) -> None:
        self._told(min(1.0, self._used_s / self._course.time_s), words)
