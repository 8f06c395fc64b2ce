"""Boards: a row for each eligible target, read again when its numbers change."""

from __future__ import annotations

from dataclasses import dataclass, field

from rhizome.clock import ManualClock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.render.outcomes import Rendered, Why
from rhizome.settings.tree import AdmissionSettings, PrefixSettings
from router.admission.classes import Priority
from router.faults import Faults
from router.fleet import EngineLoad, Fleet
from router.prefix.index import PrefixIndex
from router.prefix.prediction import Kept
from router.prompt import RenderedPrompt
from router.scheduling.load import LoadBook
from router.scheduling.speeds import LearnedSpeeds
from router.scheduling.types import Candidates
from router.standings import Sources, Standings


def record(name: str, **fields: object) -> WorkerRecord:
    return WorkerRecord(
        worker_id=name,
        incarnation="a",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
        **{"model": "m", "block_size": 16, **fields},  # type: ignore[arg-type]  # a test's fields
    )


@dataclass
class Bench:
    index: PrefixIndex = field(default_factory=lambda: PrefixIndex(2**24))
    book: LoadBook = field(default_factory=LoadBook)
    speeds: LearnedSpeeds = field(default_factory=lambda: LearnedSpeeds(4000.0, 20.0))

    def __post_init__(self) -> None:
        self.fleet = Fleet(2, told_in_flight=self.book.in_flight)
        settings = AdmissionSettings(in_flight_max_per_worker=4)
        sources = Sources(
            self.fleet, self.index, self.book, self.speeds, settings, Faults(ManualClock())
        )
        self.standings = Standings(sources)
        for name in ("a", "b", "c"):
            self.add(name)

    def add(self, name: str, **fields: object) -> None:
        self.index.add_worker(name)
        self.speeds.add(name, "m")
        self.fleet.upsert(record(name, **fields), 0.0)

    def candidates(
        self,
        tokens: int = 100,
        excluded: frozenset[str] = frozenset(),
        priority: Priority = Priority.INTERACTIVE,
        now_s: float = 0.0,
    ) -> Candidates:
        board = self.standings.of("m")
        board.check_invariants()
        return board.candidates(self.prompt(tokens), priority, set(excluded), now_s)

    def prompt(self, tokens: int) -> RenderedPrompt:
        rendered = Rendered(list(range(tokens)), b"", Why.EXACT)
        return RenderedPrompt(rendered, None, PrefixSettings())

    def hashes(self, tokens: int, block_size: int) -> list[int]:
        return self.prompt(tokens).hashes(block_size)


def test_what_is_booked_is_seen_and_what_is_released_is_gone() -> None:
    bench = Bench()
    bench.candidates()
    receipt = bench.book.reserve("b", 70, 0.0)
    assert bench.candidates().in_flight.tolist() == [0, 1, 0]
    assert bench.candidates().queued_tokens.tolist() == [0, 70, 0]
    bench.book.first_byte(receipt, 0.0)
    assert bench.candidates().queued_tokens.tolist() == [0, 0, 0]
    bench.book.release(receipt)
    assert bench.candidates().in_flight.tolist() == [0, 0, 0]


def test_the_prompt_at_work_is_presumed_to_go_on_but_never_to_be_done() -> None:
    bench = Bench()
    bench.book.reserve("b", 4000, 0.0)
    bench.book.reserve("b", 500, 0.0)
    assert bench.candidates().queued_tokens.tolist() == [0, 4500, 0]
    speed = bench.candidates().prefill_tokens_per_s[1]
    assert bench.candidates(now_s=2000 / speed).queued_tokens.tolist() == [0, 2500, 0]
    assert bench.candidates(now_s=1e6).queued_tokens.tolist() == [0, 700, 0]


def test_planned_work_counts_until_it_is_forgotten() -> None:
    bench = Bench()
    bench.candidates()
    bench.standings.plan("c", 300)
    assert bench.candidates().queued_tokens.tolist() == [0, 0, 300]
    bench.standings.forget_plans()
    assert bench.candidates().queued_tokens.tolist() == [0, 0, 0]


def test_a_load_report_tells_of_other_routers() -> None:
    bench = Bench()
    bench.candidates()
    bench.fleet.report("c", EngineLoad(running=2, waiting=1, kv_usage=0.5), 0.0)
    assert bench.candidates().in_flight.tolist() == [0, 0, 3]
    assert bench.candidates().kv_usage.tolist() == [0.0, 0.0, 0.5]


def test_a_speed_that_is_learned_stands_in_for_those_that_are_not_known() -> None:
    bench = Bench()
    bench.candidates()
    for _ in range(30):
        bench.speeds.observe_first_token("a", 1000, 50.0, alone=True)
        bench.speeds.observe_decode("b", 50, 500.0)
    found = bench.candidates()
    assert found.prefill_tokens_per_s[0] > 10_000
    assert found.prefill_tokens_per_s[1] == found.prefill_tokens_per_s[2] > 10_000
    assert found.decode_step_ms[0] == found.decode_step_ms[2] < 15


def test_targets_that_leave_are_suspended_or_excluded_are_not_there() -> None:
    bench = Bench()
    assert list(bench.candidates().worker_ids) == ["a", "b", "c"]
    assert list(bench.candidates(excluded=frozenset({"b"})).worker_ids) == ["a", "c"]
    bench.fleet.dispatch_failed("a", "a", "refused")
    assert list(bench.candidates().worker_ids) == ["b", "c"]
    bench.fleet.remove("c", "left", 0.0)
    assert list(bench.candidates().worker_ids) == ["b"]
    bench.fleet.probe("a", True, 0.0)
    bench.fleet.drain(frozenset({"b"}))
    assert list(bench.candidates().worker_ids) == ["a"]


def test_matches_are_credited_by_each_targets_own_block_size() -> None:
    bench = Bench()
    bench.add("d", block_size=32)
    bench.add("e/rank", block_size=None)
    bench.index.store("a", bench.hashes(100, 16))
    bench.index.store("b", bench.hashes(100, 16)[:2])
    bench.index.store("d", bench.hashes(100, 32))
    assert bench.candidates(100).match_tokens.tolist() == [96, 32, 0, 96, 0]
    assert bench.candidates(96).match_tokens.tolist() == [80, 32, 0, 64, 0]


def test_a_slot_that_is_used_again_credits_its_new_owner() -> None:
    bench = Bench()
    bench.candidates()
    bench.index.remove_worker("a")
    bench.index.add_worker("z")
    bench.index.store("z", bench.hashes(100, 16))
    assert bench.candidates().match_tokens.tolist() == [0, 0, 0]


def test_room_is_smaller_for_batch_work() -> None:
    bench = Bench()
    assert set(bench.candidates().in_flight_max.tolist()) == {4}
    assert set(bench.candidates(priority=Priority.BATCH).in_flight_max.tolist()) == {2}


def test_a_match_is_the_same_among_few_targets_and_among_many() -> None:
    few, many = Bench(), Bench()
    for number in range(20):
        many.add(f"more{number}")
    for bench in (few, many):
        bench.index.store("a", bench.hashes(100, 16)[:4])
        bench.index.predict("b", bench.hashes(100, 16)[:2], 10.0)
        bench.index.assume("c", bench.hashes(100, 16), 0.0, Kept(10.0))
        assert bench.candidates().match_tokens.tolist()[:3] == [64, 32, 96]
        bench.index.clear("a")
        assert bench.candidates().match_tokens.tolist()[:3] == [0, 32, 96]
        assert bench.candidates(now_s=20.0).match_tokens.tolist()[:3] == [0, 0, 0]


def test_a_prompt_that_waits_is_matched_anew_only_after_a_moment() -> None:
    bench = Bench()
    prompt = bench.prompt(100)
    board = bench.standings.of("m")

    def matched(now_s: float, *, again: bool) -> list[int]:
        found = board.candidates(prompt, Priority.INTERACTIVE, set(), now_s, again=again)
        tokens: list[int] = found.match_tokens.tolist()
        return tokens

    assert matched(0.0, again=True) == [0, 0, 0]
    bench.index.store("a", bench.hashes(100, 16))
    assert matched(0.01, again=True) == [0, 0, 0]
    assert matched(0.01, again=False) == [96, 0, 0]
    assert matched(1.0, again=True) == [96, 0, 0]
