"""The dispatcher: what it believes, whom it picks, and that it gives all load back."""

from __future__ import annotations

from random import Random

import pytest

from rhizome.clock import ManualClock
from rhizome.errors import NoHealthyWorker, UnknownModel
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from rhizome.render.outcomes import Rendered, Why
from rhizome.settings.tree import PrefixSettings, RouterSettings
from router.admission.classes import Priority
from router.dispatch import Dispatcher
from router.fleet import EngineLoad, Fleet
from router.placement import Job
from router.prefix.index import PrefixIndex
from router.prompt import RenderedPrompt
from router.relay.dialect import PromptTokensDetails, Usage
from router.scheduling.load import LoadBook
from router.scheduling.policies import build_policy
from router.scheduling.speeds import LearnedSpeeds

TOKENS = list(range(200))
BLOCK = 16


class Bench:
    """A dispatcher over two workers with nothing else around it."""

    def __init__(self, policy: str = "cost", settings: RouterSettings | None = None) -> None:
        self.clock = ManualClock()
        self.index = PrefixIndex(2**24)
        self.book = LoadBook()
        self.fleet = Fleet(2, told_in_flight=self.book.in_flight)
        self.dispatcher = Dispatcher(
            fleet=self.fleet,
            index=self.index,
            policy=build_policy(policy),
            book=self.book,
            speeds=LearnedSpeeds(4000.0, 20.0),
            settings=settings or RouterSettings(),
            clock=self.clock,
            rng=Random(0),
        )
        self.fleet.listen(self.dispatcher)
        for name in ("w0", "w1"):
            self.index.add_worker(name, 1000)
            self.fleet.upsert(worker(name), 0.0)

    def job(self, tokens: list[int] | None = TOKENS, **fields: object) -> Job:
        rendered = Rendered(tokens, b"text " * 100, Why.EXACT if tokens else Why.NO_TOKENIZER)
        prompt = RenderedPrompt(rendered, None, PrefixSettings())
        return Job("r", "m", prompt, **fields)  # type: ignore[arg-type]  # the fields of a test


def worker(worker_id: str, **fields: object) -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id,
        incarnation="a",
        model="m",
        url="http://127.0.0.1:1",
        state=WorkerState.READY,
        block_size=BLOCK,
        events=(EventSource(endpoint="tcp://127.0.0.1:1"),),
        **fields,  # type: ignore[arg-type]  # the fields of a test
    )


def test_what_was_just_sent_is_predicted_and_forgotten_without_confirmation() -> None:
    bench = Bench()
    first = bench.dispatcher.assign(bench.job())
    assert first is not None
    assert first.predicted_tokens == 0
    bench.dispatcher.release(first)
    second = bench.dispatcher.assign(bench.job())
    assert second is not None
    assert second.target == first.target
    assert second.predicted_tokens == 192, "12 whole blocks of 16, the last token excluded"
    bench.dispatcher.release(second)
    bench.clock.advance(PrefixSettings().predicted_ttl_s + 1)
    bench.dispatcher.tick()
    third = bench.dispatcher.assign(bench.job())
    assert third is not None
    assert third.predicted_tokens == 0


def test_truth_outlives_prediction() -> None:
    bench = Bench()
    bench.index.store("w1", bench.job().prompt.hashes(BLOCK))
    bench.clock.advance(1000)
    placed = bench.dispatcher.assign(bench.job())
    assert placed is not None
    assert (placed.target.target_id, placed.predicted_tokens) == ("w1", 192)


def test_a_prompt_whose_last_block_is_full_is_never_wholly_credited() -> None:
    bench = Bench()
    job = bench.job(TOKENS[:160])
    bench.index.store("w0", job.prompt.hashes(BLOCK))
    placed = bench.dispatcher.assign(job)
    assert placed is not None
    assert placed.predicted_tokens == 144


def test_requests_that_come_together_do_not_all_go_to_one_worker() -> None:
    bench = Bench()
    placed = [
        bench.dispatcher.assign(bench.job([number * 1000 + one for one in range(300)]))
        for number in range(10)
    ]
    targets = [one.target.target_id for one in placed if one is not None]
    assert sorted(targets.count(name) for name in ("w0", "w1")) == [5, 5]


def test_load_of_other_routers_counts() -> None:
    bench = Bench("least_loaded")
    bench.fleet.report("w0", EngineLoad(running=5, waiting=0, kv_usage=0.1), 0.0)
    for _ in range(5):
        placed = bench.dispatcher.assign(bench.job())
        assert placed is not None
        assert placed.target.target_id == "w1"


def test_full_workers_take_nothing_and_batch_work_leaves_room() -> None:
    bench = Bench(
        settings=RouterSettings.model_validate({"admission": {"in_flight_max_per_worker": 2}})
    )
    batch = [bench.dispatcher.assign(bench.job(priority=Priority.BATCH)) for _ in range(3)]
    assert [one is not None for one in batch] == [True, True, False]
    interactive = [bench.dispatcher.assign(bench.job()) for _ in range(3)]
    assert [one is not None for one in interactive] == [True, True, False]


def test_the_engine_s_own_bound_is_kept() -> None:
    bench = Bench()
    for name in ("w0", "w1"):
        bench.fleet.upsert(worker(name, max_num_seqs=1), 0.0)
    placed = [bench.dispatcher.assign(bench.job()) for _ in range(3)]
    assert [one is not None for one in placed] == [True, True, False]


def test_workers_that_failed_the_job_are_passed_over() -> None:
    bench = Bench()
    job = bench.job(excluded={"w0"})
    placed = bench.dispatcher.assign(job)
    assert placed is not None
    assert placed.target.target_id == "w1"
    bench.dispatcher.check_servable("m", {"w0"})
    with pytest.raises(NoHealthyWorker):
        bench.dispatcher.check_servable("m", {"w0", "w1"})
    with pytest.raises(UnknownModel, match="models served: m"):
        bench.dispatcher.check_servable("other")


def test_a_prompt_is_queued_until_its_first_byte() -> None:
    bench = Bench()
    placed = bench.dispatcher.assign(bench.job())
    assert placed is not None
    target = placed.target.target_id
    assert bench.book.queued_tokens(target) == 200
    bench.dispatcher.first_byte(placed)
    assert bench.book.queued_tokens(target) == 0
    assert bench.book.in_flight(target) == 1
    bench.dispatcher.release(placed)
    bench.dispatcher.release(placed)
    assert bench.book.in_flight(target) == 0


def test_a_prompt_whose_answer_is_not_streamed_is_presumed_done_in_time() -> None:
    bench = Bench()
    placed = bench.dispatcher.assign(bench.job(streamed=False))
    assert placed is not None
    target = placed.target.target_id
    bench.dispatcher.tick()
    assert bench.book.queued_tokens(target) == 200
    bench.clock.advance(placed.choice.chosen.predicted_ttft_ms / 1000 + 0.001)
    bench.dispatcher.tick()
    assert bench.book.queued_tokens(target) == 0
    assert bench.book.in_flight(target) == 1
    bench.dispatcher.release(placed)


def test_a_worker_that_leaves_takes_its_load_with_it() -> None:
    bench = Bench()
    placed = bench.dispatcher.assign(bench.job())
    assert placed is not None
    bench.fleet.remove(placed.target.record.worker_id, "gone", 0.0)
    assert bench.book.in_flight(placed.target.target_id) == 0
    bench.dispatcher.release(placed)


def test_a_receipt_that_nobody_gave_back_is_swept() -> None:
    bench = Bench()
    placed = bench.dispatcher.assign(bench.job())
    assert placed is not None
    bench.clock.advance(2 * RouterSettings().relay.total_timeout_s + 1)
    bench.dispatcher.tick()
    assert bench.book.in_flight(placed.target.target_id) == 0


def test_speeds_are_learned_from_streamed_answers() -> None:
    bench = Bench()
    for number in range(30):
        job = bench.job([number * 1000 + one for one in range(900)])
        placed = bench.dispatcher.assign(job)
        assert placed is not None
        bench.clock.advance(0.92)
        bench.dispatcher.first_byte(placed)
        bench.clock.advance(0.5)
        usage = Usage(900, 11, PromptTokensDetails(0))
        bench.dispatcher.learn(placed, usage, bench.clock.monotonic_s())
        bench.dispatcher.release(placed)
    speed = bench.dispatcher.speeds.prefill_tokens_per_s("w0")
    assert 800 < speed < 1200
    assert 40 < bench.dispatcher.speeds.decode_step_ms("w0") < 60


def test_bytes_stand_for_tokens_where_there_are_none() -> None:
    bench = Bench()
    first = bench.dispatcher.assign(bench.job(None))
    assert first is not None
    bench.dispatcher.release(first)
    second = bench.dispatcher.assign(bench.job(None))
    assert second is not None
    assert second.target == first.target
    assert 0 < second.predicted_tokens < second.job.prompt.tokens
