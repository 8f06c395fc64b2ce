from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.simulated_runs import profile
from workers.engine.simulated.profile import (
    EngineProfile,
    MixtureOfExperts,
    ProfileUnusable,
    StepWork,
    built_in_profiles,
    load_profile,
)


@pytest.mark.parametrize("name", built_in_profiles())
def test_every_built_in_profile_loads_and_names_its_source(name: str) -> None:
    loaded = load_profile(name)
    assert loaded.name == name
    assert len(loaded.source) > 40
    assert loaded.max_model_len <= loaded.kv_tokens


def test_the_published_prefill_speed_comes_out() -> None:
    loaded = load_profile("qwen3-32b-h100-tp2")
    work = StepWork(0, 0, 0, 20_000)
    speed = 20_000 / (loaded.step_s(work) - loaded.a_ms / 1000)
    assert speed == pytest.approx(20_600, rel=0.01)


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(profile(name="mine").model_dump_json())
    assert load_profile(path) == profile(name="mine")
    assert load_profile(str(path)).name == "mine"


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ProfileUnusable, match="no engine profile 'gpt-9'") as caught:
        load_profile("gpt-9")
    assert "cpu-llama-28m" in caught.value.advice


@pytest.mark.parametrize(
    ("text", "cause"),
    [("{", "Invalid JSON"), ('{"name": "x"}', "Field required"), ("[]", "profile")],
)
def test_a_broken_file_is_refused_with_the_cause(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ProfileUnusable, match=cause):
        load_profile(path)


@pytest.mark.parametrize(
    "change",
    [
        {"a_ms": 0},
        {"kv_blocks": 14},
        {"block_size": 0},
        {"policy": "lottery"},
        {"unknown": 1},
        {"moe": {"experts": 2, "active": 3, "expert_ms": 1.0}},
        {"moe": {"experts": 8, "active": 2, "expert_ms": 11.0}},
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        profile(**change)


def test_a_speed_factor_divides_every_time() -> None:
    moe = MixtureOfExperts(experts=8, active=2, expert_ms=6.0)
    slow = profile(moe=moe, e_ms_per_mtok2=3.0, request_overhead_ms=4.0, token_overhead_ms=1.0)
    fast: EngineProfile = slow.at_speed(4)
    work = StepWork(3, 2, 500, 100, 4000)
    assert fast.step_s(work) == pytest.approx(slow.step_s(work) / 4)
    assert fast.request_overhead_ms == 1.0
    assert fast.token_overhead_ms == 0.25
    with pytest.raises(ValueError, match="positive"):
        slow.at_speed(0)


def test_every_expert_is_read_once_the_batch_is_large() -> None:
    moe = MixtureOfExperts(experts=8, active=2, expert_ms=16.0)
    assert moe.saved_ms(1) == pytest.approx(12.0)
    assert moe.saved_ms(64) < 0.001
