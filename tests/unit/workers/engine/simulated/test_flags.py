from __future__ import annotations

from typing import Any

import pytest

from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec
from workers.engine.simulated.flags import DEFAULT_PROFILE, profile_of, read_flags
from workers.engine.simulated.profile import EngineProfile, ProfileUnusable, load_profile


def profile(spec_fields: dict[str, Any], **flags: Any) -> EngineProfile:
    spec = ModelSpec(
        name="m", source="demo:llama", engine="simulated", engine_args=flags, **spec_fields
    )
    return profile_of(spec, read_flags(spec))


def test_without_flags_it_is_the_default_profile_as_it_is() -> None:
    assert profile({}) == load_profile(DEFAULT_PROFILE)


def test_a_block_size_of_ones_own_keeps_the_caches_room() -> None:
    plain, changed = profile({}), profile({"block_size": 64})
    assert changed.block_size == 64
    assert 0 <= plain.kv_tokens - changed.kv_tokens <= 64


def test_fields_of_the_spec_and_flags_change_the_profile() -> None:
    changed = profile(
        {"max_model_len": 1000, "max_num_seqs": 7}, **{"speed-factor": 2, "kv_blocks": 100}
    )
    assert (changed.max_model_len, changed.max_num_seqs, changed.kv_blocks) == (1000, 7, 100)
    assert changed.a_ms == load_profile(DEFAULT_PROFILE).a_ms / 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"wobble": 1}, "wobble"), ({"speed_factor": 0}, "speed_factor"), ({"faults": "x"}, "faults")],
)
def test_a_wrong_flag_is_named(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        profile({}, **flags)


def test_a_sequence_longer_than_the_cache_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be so changed"):
        profile({"max_model_len": 100_000}, kv_blocks=10)


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ProfileUnusable, match="nothing"):
        profile({}, profile="nothing")


def test_prompts_are_rendered_for_others_where_that_is_turned_on() -> None:
    def renders(**flags: Any) -> bool:
        spec = ModelSpec(name="m", source="demo:llama", engine="simulated", engine_args=flags)
        return read_flags(spec).enable_scale_out

    assert renders(**{"enable-scale-out": True})
    assert not renders()


def test_tool_calls_are_read_where_a_parser_is_named_and_turned_on() -> None:
    def reads(**flags: Any) -> bool:
        spec = ModelSpec(name="m", source="demo:llama", engine="simulated", engine_args=flags)
        return read_flags(spec).reads_tool_calls

    assert reads(**{"enable-auto-tool-choice": True, "tool-call-parser": "hermes"})
    assert not reads(**{"tool-call-parser": "hermes"})
    assert not reads()
