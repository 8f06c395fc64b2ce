"""Whole runs of the simulated scheduler under told time, and what they did, token for token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from workers.engine.simulated.cache import BlockKey, CacheEvent, Cleared, Removed, Stored
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import SimRequest, Step
from workers.engine.simulated.scheduler import Scheduler


def profile(**changes: object) -> EngineProfile:
    """A small engine with round numbers: 10 ms a step, blocks of 4 tokens, 15 of them."""
    numbers: dict[str, object] = {
        "name": "test",
        "source": "made up",
        "a_ms": 10.0,
        "b_ms": 0.5,
        "c_ms_per_ktok": 7.0,
        "d_ms_per_ktok": 100.0,
        "block_size": 4,
        "kv_blocks": 16,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 32,
        "max_model_len": 60,
    }
    return EngineProfile.model_validate(numbers | changes)


def keys_of(branches: Sequence[object], blocks: int) -> list[BlockKey]:
    """Chained keys of a text whose block i is `branches[i]`; the last one goes on for ever."""
    chain = [*branches[:blocks], *[branches[-1]] * (blocks - len(branches))]
    return [tuple(chain[: index + 1]) for index in range(blocks)]


def request(
    name: str,
    prompt_len: int,
    output_len: int = 4,
    *,
    text: Sequence[object] = ("same",),
    arrival_s: float = 0.0,
    priority: int = 0,
    block_size: int = 4,
) -> SimRequest:
    """A request whose blocks, those of its output included, are those of `text`."""
    return SimRequest(
        name,
        prompt_len,
        keys_of(text, prompt_len // block_size),
        output_len,
        arrival_s,
        priority,
        lambda block: keys_of(text, block + 1)[block],
    )


@dataclass
class Ledger:
    """All that a run told, flattened so that rows of steps and single steps compare."""

    cached: dict[str, int] = field(default_factory=dict)
    started_s: dict[str, float] = field(default_factory=dict)
    token_s: dict[str, list[float]] = field(default_factory=dict)
    first_s: dict[str, float] = field(default_factory=dict)
    finished_s: dict[str, float] = field(default_factory=dict)
    preempted: list[tuple[str, float]] = field(default_factory=list)
    events: list[CacheEvent] = field(default_factory=list)
    rows: int = 0
    end_s: float = 0.0

    def note(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._note(step)

    def _note(self, step: Step) -> None:
        assert step.start_s >= self.end_s, "steps do not overlap"
        assert step.end_s >= step.start_s
        self.end_s = step.end_s
        self.rows += 1
        for started in step.started:
            assert started.request_id not in self.cached
            self.cached[started.request_id] = started.cached_tokens
            self.started_s[started.request_id] = step.start_s
        self.preempted += [(name, step.start_s) for name in step.preempted]
        for name, count in step.tokens.items():
            times = [step.end_of(number + 1) for number in range(step.steps)]
            self.token_s.setdefault(name, []).extend(times if step.steps > 1 else times * count)
            assert step.steps in (1, count)
        self.first_s |= dict.fromkeys(step.first, step.end_s)
        self.finished_s |= dict.fromkeys(step.finished, step.end_s)
        self.events += step.events

    def content(self) -> Counter[BlockKey]:
        """Copies of each block that the events leave in the cache."""
        return replay(self.events)


def replay(events: Sequence[CacheEvent]) -> Counter[BlockKey]:
    """What the cache holds after these events, told from their start."""
    content: Counter[BlockKey] = Counter()
    for event in events:
        if isinstance(event, Stored):
            assert event.parent is None or content[event.parent] > 0, "a parent is there first"
            content.update(event.keys)
        elif isinstance(event, Removed):
            content.subtract(event.keys)
            assert min(content.values()) >= 0, "only what is there can go"
        elif isinstance(event, Cleared):
            content.clear()
    return +content


def finish(scheduler: Scheduler, ledger: Ledger) -> Ledger:
    """Runs until nothing is left, checking the books after each step."""
    for until_s in _events(scheduler):
        ledger.note(scheduler.advance(until_s))
        scheduler.check_invariants()
    return ledger


def _events(scheduler: Scheduler) -> Iterator[float]:
    for _ in range(100_000):
        until_s = scheduler.next_event_s()
        if until_s is None:
            return
        yield until_s
    raise AssertionError("the run does not end")


def run(
    scheduler: Scheduler,
    requests: Sequence[SimRequest],
    aborts: Sequence[tuple[float, str]] = (),
) -> Ledger:
    """Requests at their arrivals and aborts at their times; returns when all is done."""
    ledger = Ledger()
    by_name = {each.request_id: each for each in requests}
    arrivals = [(each.arrival_s, False, each.request_id) for each in requests]
    changes = [*arrivals, *((at_s, True, name) for at_s, name in aborts)]
    for at_s, aborted, name in sorted(changes, key=lambda change: change[:2]):
        ledger.note(scheduler.advance(at_s))
        if aborted:
            scheduler.abort(name)
        else:
            scheduler.add(by_name[name])
        scheduler.check_invariants()
    finish(scheduler, ledger)
    ledger.events += scheduler.take_events()
    return ledger
