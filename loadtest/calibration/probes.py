"""Single measurements on a live engine, each turned into observations of the step model.

Prompts are random token ids, different each time, so the prefix cache never helps. Decoding is
timed inside the window in which all streams run, between tokens that the same stream received, so
neither start nor end of a stream counts. Streams are cancelled when the window is long enough.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from statistics import median

from loadtest.calibration.fitting import Observation, Work, prefill_work
from loadtest.calibration.target import EngineTarget, LiveMarks
from rhizome.clock import Clock
from rhizome.tasks import Tasks

REST_S = 0.1
"""Before a prompt on its own: what follows an answer at once is served some ms sooner, by caches
and threads that are still awake, than requests as they come in life."""
_WINDOW_TOKENS = 32
_SKIPPED_TOKENS = 3
"""At a window's start: the step that ended the last prefill was not a plain one."""
_USEFUL_TOKENS = 6
_CHUNK_SHARE = 0.1
"""A chunk takes at least this share of the longest one, though the first has least to attend to."""
_POLL_S = 0.005
_ALIKE = 3
"""Samples that must agree: right after arrivals fewer may run than could."""
_BUDGETS = tuple(2**power for power in range(8, 18))


class Prompts:
    """Token ids at random below `vocabulary`; the lowest ones, often special, are left out."""

    def __init__(self, random: Random, vocabulary: int) -> None:
        self._random = random
        self._ids = range(min(256, vocabulary // 2), vocabulary)

    def draw(self, length: int) -> list[int]:
        return self._random.choices(self._ids, k=length)


@dataclass(frozen=True, slots=True)
class Mixed:
    """What a prompt did to streams that were decoding."""

    observation: Observation | None
    long_gaps: int
    """Steps that were clearly longer than a decode step, i.e. chunks of the prompt."""


class Probes:
    """The measurements that one engine allows."""

    def __init__(
        self, target: EngineTarget, prompts: Prompts, clock: Clock, length_max: int
    ) -> None:
        self._target = target
        self._length_max = length_max
        self._prompts = prompts
        self._clock = clock

    async def prefill(self, length: int, budget: int, kind: str) -> Observation:
        """Time to first token of one prompt in an idle engine."""
        await self._clock.sleep(REST_S)
        stream = await self._target.stream(self._prompts.draw(length), 1)
        return Observation(kind, prefill_work(length, budget, requests=1), stream.ttft_ms)

    async def burst(self, length: int, count: int, budget: int) -> Observation:
        """`count` prompts at once: until the last first token.

        The first one reaches the engine alone, the rest while it is computed.
        """
        await self._clock.sleep(REST_S)
        begun_s = self._clock.monotonic_s()
        streams = await asyncio.gather(
            *(self._target.stream(self._prompts.draw(length), 1) for _ in range(count))
        )
        ended_s = max(each.first_s for each in streams)
        chunks = -(-length // budget) + -(-(count - 1) * length // budget)
        work = Work(
            steps=chunks,
            sequences=count + chunks - 2,
            prefill_ktok=count * length / 1e3,
            attended_mtok2=count * length * length / 2e6,
            requests=1,
        )
        return Observation("prefill, several at once", work, (ended_s - begun_s) * 1e3)

    async def decode(self, sequences: int, context: int, kind: str) -> Observation | None:
        """The step with that many sequences of that many tokens; None if no window came about."""
        async with Tasks("decode-probe") as tasks:
            lives = self._start_streams(tasks, sequences, context, _WINDOW_TOKENS * 4)
            if not await self._grown(lives, _WINDOW_TOKENS):
                return None
        begun_s = max(live.marks[0][0] for live in lives)
        ended_s = min(live.marks[-1][0] for live in lives)
        step_ms = _step_ms(lives, begun_s, ended_s)
        if step_ms is None:
            return None
        middle_s = (begun_s + ended_s) / 2
        tokens = sum(context + _made(live, middle_s) for live in lives)
        work = Work(steps=1, sequences=sequences, context_ktok=tokens / 1e3)
        return Observation(kind, work, step_ms)

    async def mixed(self, sequences: int, context: int, length: int) -> Mixed:
        """A prompt of `length` tokens arrives while `sequences` streams decode."""
        async with Tasks("mixed-probe") as tasks:
            lives = self._start_streams(tasks, sequences, context, 2048)
            if not await self._grown(lives, 8):
                return Mixed(None, 0)
            quiet_from_s = max(live.marks[0][0] for live in lives)
            sent_s = self._clock.monotonic_s()
            prompt = await self._target.stream(self._prompts.draw(length), 1)
            if not await self._grown(lives, 1, after_s=prompt.first_s):
                return Mixed(None, 0)
        observer = lives[0]
        times = [at_s for at_s, _ in observer.marks]
        first = bisect_right(times, sent_s) - 1
        last = min(bisect_left(times, prompt.first_s), len(times) - 1)
        if first < 0 or last <= first:
            return Mixed(None, 0)
        steps = observer.marks[last][1] - observer.marks[first][1]
        middle_s = (times[first] + times[last]) / 2
        tokens = sum(context + _made(live, middle_s) for live in lives)
        gaps = [after - before for before, after in pairwise(times[first : last + 1])]
        quiet_ms = _step_ms(lives, quiet_from_s, sent_s) or 0.0
        long_ms = max(2 * quiet_ms, max(gaps) * 1e3 * _CHUNK_SHARE)
        long_gaps = sum(gap * 1e3 > long_ms for gap in gaps)
        work = Work(
            steps=steps,
            sequences=steps * sequences + max(1, long_gaps),
            context_ktok=steps * tokens / 1e3,
            prefill_ktok=length / 1e3,
            attended_mtok2=length * length / 2e6,
        )
        observed_ms = (times[last] - times[first]) * 1e3
        return Mixed(Observation("prefill among decoding", work, observed_ms), long_gaps)

    async def sequences_max(self, attempts: int) -> int | None:
        """How many of `attempts` streams run at once while others wait.

        None if none of them has to wait, or where the engine does not tell.
        """
        async with Tasks("limit-probe") as tasks:
            lives = self._start_streams(tasks, attempts, 8, 256)
            seen: list[int] = []
            while True:
                ended = _any_ended(lives)
                facts = await self._target.queue_facts()
                if facts is None:
                    return None
                if facts.waiting:
                    seen.append(facts.running)
                    if seen.count(max(seen)) >= _ALIKE:
                        return max(seen)
                elif ended or all(live.marks for live in lives):
                    return None
                await self._clock.sleep(_POLL_S)

    def _start_streams(
        self, tasks: Tasks, sequences: int, context: int, tokens: int
    ) -> list[LiveMarks]:
        tokens = min(tokens, self._length_max - context)
        lives = [LiveMarks(self._clock.monotonic_s()) for _ in range(sequences)]
        for number, live in enumerate(lives):
            work = self._target.follow(live, self._prompts.draw(context), tokens)
            live.task = tasks.start(f"stream-{number}", work)
        return lives

    async def _grown(
        self, lives: Sequence[LiveMarks], tokens: int, after_s: float | None = None
    ) -> bool:
        """Waits until each stream made `tokens` after the last one began (or after `after_s`).

        False if one ended before that; raises what made a stream fail.
        """
        while True:
            ended = _any_ended(lives)
            if all(live.marks for live in lives):
                since_s = after_s or max(live.marks[0][0] for live in lives)
                made = [live.marks[-1][1] - _made(live, since_s) for live in lives]
                if min(made) >= tokens:
                    return True
                if ended:
                    return min(made) >= _USEFUL_TOKENS + _SKIPPED_TOKENS
            await self._clock.sleep(_POLL_S)


def _any_ended(lives: Sequence[LiveMarks]) -> bool:
    """Whether a stream has ended; raises its error if it failed."""
    done = [live.task for live in lives if live.task is not None and live.task.done()]
    for task in done:
        task.result()
    return bool(done)


def _made(live: LiveMarks, at_s: float) -> int:
    """Tokens that a stream had at a time."""
    index = bisect_right(live.marks, at_s, key=lambda mark: mark[0])
    return live.marks[index - 1][1] if index else 0


def _step_ms(lives: Sequence[LiveMarks], begun_s: float, ended_s: float) -> float | None:
    """Mean time between tokens of each stream in the window, and of those the median."""
    found = []
    for live in lives:
        marks = [mark for mark in live.marks if begun_s <= mark[0] <= ended_s][_SKIPPED_TOKENS:]
        if len(marks) >= 2 and marks[-1][1] - marks[0][1] >= _USEFUL_TOKENS:
            tokens = marks[-1][1] - marks[0][1]
            found.append((marks[-1][0] - marks[0][0]) * 1e3 / tokens)
    return median(found) if found else None


def budget_of_chunks(length: int, sequences: int, chunks: int) -> int | None:
    """The token budget, a power of two, that cuts a prompt into so many chunks.

    None if one chunk held it all, or if no power of two, or more than one, does.
    """
    if chunks < 2:
        return None
    fitting = [size for size in _BUDGETS if -(-length // max(1, size - sequences)) == chunks]
    return fitting[0] if len(fitting) == 1 else None
