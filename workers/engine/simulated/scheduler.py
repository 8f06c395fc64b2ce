"""The continuous-batching scheduler of the simulated engine, as a pure state machine.

It keeps the rules of vLLM 0.32's V1 scheduler (v1/core/sched/scheduler.py): running requests first
and in order, then waiting ones while the token budget lasts; prompts in chunks; a request is
admitted only if its whole prompt fits; the last prompt token is always computed; blocks become
findable as soon as the step that fills them is scheduled; without room, the last running request
(or the least important one) loses its blocks and goes back to the front of the queue.
docs/simulated-engine.md lists where it differs on purpose.

Time is told, never read. `advance(until_s)` completes every step that ends until then; steps in
which nothing but decoding happens are taken many at once (`decoding`), with the same result as one
by one. What is added or aborted at some time must follow an `advance` to that time.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from workers.engine.simulated.cache import BlockPool, CacheEvent
from workers.engine.simulated.decoding import (
    SAME_S,
    Row,
    extend,
    fill_blocks,
    measure,
    steps_before_publication,
    steps_with_room,
)
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import Progress, RequestUnfit, SimRequest, Started, Step
from workers.engine.simulated.waiting import FifoWaiting, PriorityWaiting, Waiting


class Scheduler:
    """One engine's queue, batch and cache. With `fuse` off, each row has one step."""

    def __init__(self, profile: EngineProfile, *, fuse: bool = True) -> None:
        self.profile = profile
        self.pool = BlockPool(profile.kv_blocks - 1, caching=profile.prefix_caching)
        self.preemptions = 0
        self._fuse = fuse and profile.speculation is None
        self._block_size = profile.block_size
        self._priority = profile.policy == "priority"
        self._watermark_blocks = int(profile.watermark * profile.kv_blocks)
        self._waiting: Waiting = PriorityWaiting() if self._priority else FifoWaiting()
        self._running: list[Progress] = []
        self._requests: dict[str, Progress] = {}
        self._row: Row | None = None
        self._ready_s = 0.0
        self._last_s = (-inf, -inf)

    # What it holds

    @property
    def idle(self) -> bool:
        """Nothing to do, and no step under way."""
        return self._row is None and not self._requests

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_used_blocks(self) -> int:
        """As of the step that is under way; in a row, as of its first step."""
        return self.pool.used

    @property
    def kv_usage(self) -> float:
        return self.pool.used / self.pool.blocks

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    # What goes in

    def add(self, request: SimRequest) -> None:
        """Queues a request; raises `RequestUnfit` if it could never run here."""
        self._check(request)
        row = self._row
        if row is not None and row.steps > 1:
            if request.arrival_s > row.end_s(1):
                raise RequestUnfit(f"{request.request_id}: advance to its arrival first")
            stuck = len(self._running) >= self.profile.max_num_seqs
            if not stuck and (self._priority or not self._waiting):
                row.steps = 1
        elif not self._requests:
            self._ready_s = max(self._ready_s, request.arrival_s)
        progress = Progress(request)
        self._requests[request.request_id] = progress
        self._waiting.put(progress)

    def _check(self, request: SimRequest) -> None:
        profile, name = self.profile, request.request_id
        if name in self._requests:
            raise RequestUnfit(f"{name}: a request of this id is here already")
        if request.prompt_len < 1 or request.output_len < 1:
            raise RequestUnfit(f"{name}: a prompt and an output have at least one token")
        total = request.prompt_len + request.output_len
        if total > min(profile.max_model_len, profile.kv_tokens):
            raise RequestUnfit(
                f"{name}: {total} tokens exceed max_model_len = {profile.max_model_len}"
                f" or the cache's {profile.kv_tokens}"
            )
        full = request.prompt_len // self._block_size
        if profile.prefix_caching and len(request.block_keys) != full:
            raise RequestUnfit(f"{name}: {len(request.block_keys)} keys for {full} full blocks")

    def abort(self, request_id: str) -> bool:
        """Drops a request and frees its blocks; its tokens of the step under way are lost.

        False if it is not here (any more).
        """
        progress = self._requests.pop(request_id, None)
        if progress is None:
            return False
        if progress in self._running:
            self._running.remove(progress)
            self._free(progress)
        else:
            self._waiting.remove(progress)
        if self._row is not None:
            self._row.steps = 1
            self._row.scheduled.pop(progress, None)
        return True

    def clear_cache(self) -> bool:
        """Forgets all prefixes, if no request holds blocks; whether it did."""
        return self.pool.clear()

    # Time

    def step(self, now_s: float) -> Step | None:
        """One whole step that starts at `now_s`; None when there is nothing to do.

        For callers that advance time themselves: the returned step has been completed already.
        """
        if self._row is not None:
            raise RuntimeError("a step is under way: use advance")
        self._ready_s = max(self._ready_s, now_s)
        if not self._requests:
            return None
        row = self._begin()
        row.steps = 1
        return self._complete(row, 1)

    def next_event_s(self) -> float | None:
        """When the step or row under way ends if nothing is added or aborted; None when idle.

        Begins the next step if none is under way: what is added after this joins a later one.
        """
        if self._row is None and not self._requests:
            return None
        row = self._row or self._begin()
        return row.end_s(row.steps)

    def advance(self, until_s: float) -> list[Step]:
        """Completes what ends until `until_s`, and begins what starts before it."""
        done: list[Step] = []
        while True:
            row = self._row
            if row is None:
                if not self._requests or self._ready_s >= until_s - SAME_S:
                    return done
                row = self._begin()
            steps = row.steps_by(until_s)
            if steps == 0:
                return done
            done.append(self._complete(row, steps))

    def take_events(self) -> list[CacheEvent]:
        """Cache events that no completed step has reported yet."""
        events, self.pool.events = self.pool.events, []
        return events

    # One step

    def _begin(self) -> Row:
        row = Row(self._ready_s)
        budget = self._schedule_running(row)
        short_of_blocks = False
        if not row.preempted:
            budget, short_of_blocks = self._schedule_waiting(row, budget)
        measure(row, self.profile)
        if self._fuse and not row.preempted and not row.prefill_tokens:
            row.steps = self._row_length(row, budget, short_of_blocks)
        self._row = row
        return row

    def _chunk_limit(self) -> int:
        threshold = self.profile.long_prefill_token_threshold
        alone = len(self._running) + len(self._waiting) <= 1
        return self.profile.max_num_batched_tokens if alone or not threshold else threshold

    def _schedule_running(self, row: Row) -> int:
        """Gives each running request its tokens, preempting where room is lacking."""
        budget, limit = self.profile.max_num_batched_tokens, self._chunk_limit()
        running, scheduled, size = self._running, row.scheduled, self._block_size
        speculates = self.profile.speculation is not None
        index = 0
        while index < len(running) and budget > 0:
            progress = running[index]
            wanted = progress.tokens - progress.computed
            if wanted != 1 or speculates:
                wanted = min(self._wanted(progress), limit, budget)
            if wanted != 1 or (progress.computed + 1) % size <= 1:
                while not self._extend(progress, wanted):
                    victim = self._preempt(row)
                    budget += scheduled.pop(victim, 0)
                    if victim is progress:
                        return budget
                    if running[index : index + 1] != [progress]:
                        index -= 1
            scheduled[progress] = wanted
            budget -= wanted
            index += 1
        return budget

    def _wanted(self, progress: Progress) -> int:
        speculation = self.profile.speculation
        if speculation is None or not progress.decoding:
            return progress.tokens - progress.computed
        owed = progress.credit + speculation.tokens_per_step
        return min(int(owed), progress.goal - progress.tokens)

    def _extend(self, progress: Progress, count: int) -> bool:
        tokens = progress.computed + count
        return extend(progress, tokens, progress.tokens, self.pool, self._block_size)

    def _preempt(self, row: Row) -> Progress:
        running = self._running
        if self._priority:
            victim = max(running, key=lambda each: each.order[:2])
            running.remove(victim)
        else:
            victim = running.pop()
        self._free(victim)
        victim.computed = 0
        self._waiting.put_back(victim)
        row.preempted.append(victim.request_id)
        self.preemptions += 1
        return victim

    def _free(self, progress: Progress) -> None:
        self.pool.release(progress.blocks, progress.blank)
        progress.blocks, progress.blank = [], 0

    def _schedule_waiting(self, row: Row, budget: int) -> tuple[int, bool]:
        """Admits from the queue; what is left of the budget, and whether blocks were lacking."""
        limit, decided_s = self._chunk_limit(), self._decided_s()
        while budget > 0 and self._waiting and len(self._running) < self.profile.max_num_seqs:
            progress = self._waiting.head()
            if progress.request.arrival_s > decided_s + SAME_S:
                break
            if not self._admit(progress):
                return budget, True
            self._waiting.pop()
            self._running.append(progress)
            count = min(progress.tokens - progress.computed, limit, budget)
            self._extend(progress, count)
            row.scheduled[progress] = count
            budget -= count
            if progress.cached_tokens < 0:
                progress.cached_tokens = progress.computed
                row.started.append(Started(progress.request_id, progress.computed))
        return budget, False

    def _decided_s(self) -> float:
        """Until when arrivals count for this step."""
        began_s, ended_s = self._last_s
        in_advance = self.profile.async_scheduling and self._running and ended_s == self._ready_s
        return began_s if in_advance else inf

    def _admit(self, progress: Progress) -> bool:
        """Adopts what is cached of it, if all its tokens so far have room."""
        request, size = progress.request, self._block_size
        findable = (progress.tokens - 1) // size if request.reads_cache else 0
        hits = self.pool.match(request.keys_of(0, findable), findable)
        needed = -(-progress.tokens // size) - len(hits) + self.pool.count_evictable(hits)
        reserve = self._watermark_blocks if self._running else 0
        if needed + reserve > self.pool.free:
            return False
        self.pool.share(hits)
        progress.blocks = hits
        progress.computed = len(hits) * size
        return True

    def _row_length(self, row: Row, budget: int, short_of_blocks: bool) -> int:
        """How many steps will be like this one, in which all requests decode."""
        running = self._running
        if not running or len(row.scheduled) < len(running):
            return 1
        stuck = len(running) >= self.profile.max_num_seqs or budget <= 0 or short_of_blocks
        if self._waiting and not stuck:
            return 1
        steps = min(each.goal - each.tokens for each in running)
        if self._waiting and short_of_blocks and self.pool.caching:
            # What is filled now may be what the first in the queue looks for.
            steps = steps_before_publication(running, self._block_size, steps)
        if steps > 1:
            steps = steps_with_room(running, self._block_size, self.pool.free, steps)
        return steps

    def _complete(self, row: Row, steps: int) -> Step:
        """Ends the first `steps` steps of the row under way; the rest is planned anew."""
        if steps > 1:
            fill_blocks(self._running, self.pool, self._block_size, steps)
        end_s = row.end_s(steps)
        done = Step(
            row.start_s,
            end_s,
            steps,
            len(row.scheduled),
            row.prefill_tokens,
            row.growth_s,
            row.started,
            row.preempted,
        )
        if row.prefill_tokens or self.profile.speculation is not None:
            for progress, count in row.scheduled.items():
                self._gain(progress, count, steps, done)
        else:
            self._gain_alike(row.scheduled, steps, done)
        if done.finished:
            self._running = [each for each in self._running if each.tokens < each.goal]
        done.events = self.take_events()
        self._row, self._ready_s = None, end_s
        self._last_s = (row.end_s(steps - 1), end_s)
        return done

    def _gain(self, progress: Progress, count: int, steps: int, done: Step) -> None:
        if progress.computed == progress.tokens - 1 and progress.tokens > progress.prompt_len:
            gained = count * steps
            progress.computed += gained
            if self.profile.speculation is not None:
                progress.credit += self.profile.speculation.tokens_per_step - count
        else:
            progress.computed += count
            if progress.computed < progress.tokens:
                return
            gained = 1
            if progress.tokens == progress.prompt_len:
                done.first.append(progress.request_id)
        progress.tokens += gained
        done.tokens[progress.request_id] = gained
        if progress.tokens == progress.goal:
            self._finish(progress, done)

    def _gain_alike(self, decoding: Iterable[Progress], steps: int, done: Step) -> None:
        """What `_gain` does, where each gains a token a step."""
        gains = done.tokens
        for progress in decoding:
            progress.computed += steps
            progress.tokens = tokens = progress.tokens + steps
            gains[progress.request_id] = steps
            if tokens == progress.goal:
                self._finish(progress, done)

    def _finish(self, progress: Progress, done: Step) -> None:
        done.finished.append(progress.request_id)
        self._free(progress)
        del self._requests[progress.request_id]

    def check_invariants(self) -> None:
        """Asserts that no block and no request is lost or counted twice."""
        held = list(self._running)
        self.pool.check_invariants([each.blocks for each in held], sum(each.blank for each in held))
        everyone = held + list(self._waiting)
        assert {each.request_id for each in everyone} == self._requests.keys()
        assert len(everyone) == len(self._requests), "each request is in one place"
        assert len(held) <= self.profile.max_num_seqs
        for each in held:
            assert each.computed < each.tokens < each.goal, "one that is done has left"
            tokens = (len(each.blocks) + each.blank) * self._block_size
            assert each.computed <= tokens < each.tokens + 2 * self._block_size
        for each in self._waiting:
            assert not each.blocks, "who waits holds nothing"
            assert each.blank == each.computed == 0
        if self.idle:
            assert self.pool.used == 0, "an idle engine holds no block"
