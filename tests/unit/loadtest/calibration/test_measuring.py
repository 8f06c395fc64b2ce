from __future__ import annotations

import pytest

from loadtest.calibration.measuring import Course, Measured, Measuring
from loadtest.calibration.probes import budget_of_chunks
from loadtest.calibration.target import EngineTarget, open_session
from loadtest.calibration.writing import Given, profile_of
from rhizome.errors import TargetUnusable
from tests.support.step_engine import StepEngine, running_step_engine

COURSE = Course(time_s=60.0, rounds_max=1, prompt_max=2048, sequences_max=16)


async def measure(
    engine: StepEngine, course: Course = COURSE, model: str | None = None, key: str | None = None
) -> Measured:
    async with running_step_engine(engine), open_session(key) as session:
        target = EngineTarget(session, engine.url, engine)
        return await Measuring(target, course, engine, lambda _share, _words: None).run(model)


async def test_a_calibration_finds_the_engines_own_step_model_and_limits() -> None:
    engine = StepEngine()
    measured = await measure(engine)
    costs = measured.fit().costs
    assert costs.a_ms == pytest.approx(engine.a_ms, rel=0.05)
    assert costs.b_ms == pytest.approx(engine.b_ms, rel=0.1)
    assert costs.c_ms_per_ktok == pytest.approx(engine.c_ms_per_ktok, rel=0.1)
    assert costs.d_ms_per_ktok == pytest.approx(engine.d_ms_per_ktok, rel=0.05)
    assert costs.request_overhead_ms == pytest.approx(engine.overhead_ms, rel=0.1)
    assert measured.max_num_batched_tokens == engine.budget
    assert measured.max_num_seqs == engine.max_num_seqs
    assert measured.vocabulary == 8_000
    assert measured.cache is not None
    assert (measured.cache.block_size, measured.cache.kv_blocks) == (16, 4001)


async def test_no_prompt_that_matters_is_sent_twice() -> None:
    engine = StepEngine()
    await measure(engine)
    long_ones = [prompt for prompt in engine.prompts if len(prompt) >= 16]
    assert len(set(long_ones)) == len(long_ones)


async def test_a_written_profile_says_what_was_measured_and_what_assumed() -> None:
    measured = await measure(StepEngine(metrics=False))
    given = Given(name="mine", kv_blocks=5_000)
    profile = profile_of(measured, given, "rhizome calibrate X", {"cores": 2})
    limits = profile.calibration["limits"]
    assert limits == {
        "max_model_len": "measured",
        "block_size": "assumed",
        "kv_blocks": "given",
        "max_num_seqs": "assumed",
        "max_num_batched_tokens": "measured",
        "async_scheduling": "assumed",
    }
    assert profile.kv_blocks == 5_000
    assert profile.calibration["command"] == "rhizome calibrate X"


async def test_too_little_time_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(TargetUnusable, match="not even one round") as caught:
        await measure(StepEngine(), Course(time_s=0.05, prompt_max=2048))
    assert "--budget-s" in caught.value.advice


async def test_a_model_that_is_not_served_is_named_with_those_that_are() -> None:
    with pytest.raises(TargetUnusable, match="does not serve 'other'") as caught:
        await measure(StepEngine(), model="other")
    assert "served: m" in caught.value.advice


async def test_an_engine_that_does_not_stream_is_refused() -> None:
    with pytest.raises(TargetUnusable, match="does not stream"):
        await measure(StepEngine(streaming=False))


async def test_a_missing_key_is_told_with_the_flag_that_gives_it() -> None:
    with pytest.raises(TargetUnusable, match="401") as caught:
        await measure(StepEngine(key="secret"))
    assert "--key-file" in caught.value.advice


async def test_the_key_is_sent() -> None:
    assert (await measure(StepEngine(key="secret"), key="secret")).rounds == 1


async def test_a_dead_target_is_told_with_its_address() -> None:
    async with running_step_engine(StepEngine()) as engine:
        url = engine.url
    async with open_session(None) as session:
        with pytest.raises(TargetUnusable, match=url):
            await EngineTarget(session, url, engine).find_model(None)


@pytest.mark.parametrize(
    ("length", "chunks", "budget"), [(8032, 4, 2048), (8032, 2, 4096), (8032, 1, None)]
)
def test_the_token_budget_follows_from_the_number_of_chunks(
    length: int, chunks: int, budget: int | None
) -> None:
    assert budget_of_chunks(length, 2, chunks) == budget
