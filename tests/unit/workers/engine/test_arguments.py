from __future__ import annotations

import json
from typing import Any

import pytest

from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec
from workers.engine.arguments import engine_arguments, engine_environment, publishes_events


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "m", "source": "/models/m"} | fields)


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_a_plain_cpu_model_runs_eagerly_with_a_bounded_kv_cache() -> None:
    arguments = engine_arguments(spec(), "/models/m")
    assert value_of(arguments, "--model") == "/models/m"
    assert value_of(arguments, "--served-model-name") == "m"
    assert value_of(arguments, "--kv-cache-memory-bytes") == "256M"
    assert {"--enforce-eager", "--enable-prompt-tokens-details"} <= set(arguments)
    assert "--kv-events-config" not in arguments


def test_a_gpu_model_leaves_memory_and_compilation_to_the_engine() -> None:
    arguments = engine_arguments(spec(device="gpu"), "m")
    assert "--enforce-eager" not in arguments
    assert "--kv-cache-memory-bytes" not in arguments


def test_typed_fields_become_flags() -> None:
    arguments = engine_arguments(
        spec(
            parallel={"tensor": 2, "pipeline": 3, "data": 4, "expert": True},
            max_model_len=2048,
            block_size=32,
            kv_cache_memory="1G",
            max_num_seqs=7,
            seed=5,
            revision="abc",
        ),
        "m",
    )
    expected = {
        "--tensor-parallel-size": "2",
        "--pipeline-parallel-size": "3",
        "--data-parallel-size": "4",
        "--max-model-len": "2048",
        "--block-size": "32",
        "--kv-cache-memory-bytes": "1G",
        "--max-num-seqs": "7",
        "--seed": "5",
        "--revision": "abc",
        "--tokenizer-revision": "abc",
    }
    assert {flag: value_of(arguments, flag) for flag in expected} == expected
    assert "--enable-expert-parallel" in arguments


def test_pipeline_stages_on_cpu_are_not_run_eagerly() -> None:
    pipelined = spec(parallel={"pipeline": 2})
    assert "--enforce-eager" not in engine_arguments(pipelined, "m")
    environment = engine_environment(pipelined, {}, model_is_local=True)
    assert "TORCH_COMPILE_DISABLE" not in environment


def test_events_switch_prefix_caching_on_and_are_given_as_json() -> None:
    arguments = engine_arguments(spec(), "m", {"endpoint": "ipc:///x"})
    assert "--enable-prefix-caching" in arguments
    assert json.loads(value_of(arguments, "--kv-events-config")) == {"endpoint": "ipc:///x"}


def test_adapters_may_be_named_in_a_mapping() -> None:
    arguments = engine_arguments(spec(engine_args={"lora-modules": {"a": "/a", "b": "/b"}}), "m")
    assert arguments[arguments.index("--lora-modules") :][1:3] == ["a=/a", "b=/b"]


def test_more_flags_are_passed_in_the_shape_of_their_value() -> None:
    arguments = engine_arguments(
        spec(
            engine_args={
                "enable_lora": True,
                "--enforce-eager": False,
                "lora-modules": ["a=/a", "b=/b"],
                "kv-transfer-config": {"kv_role": "kv_both"},
                "max-loras": 2,
                "quantization": None,
            }
        ),
        "m",
    )
    assert "--enable-lora" in arguments
    assert "--no-enforce-eager" in arguments
    assert "--enforce-eager" not in arguments
    assert arguments[arguments.index("--lora-modules") :][1:3] == ["a=/a", "b=/b"]
    assert value_of(arguments, "--kv-transfer-config") == '{"kv_role":"kv_both"}'
    assert value_of(arguments, "--max-loras") == "2"
    assert "--quantization" not in arguments


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("tensor-parallel-size", "parallel.tensor"),
        ("tensor_parallel_size", "parallel.tensor"),
        ("-tp", "parallel.tensor"),
        ("served-model-name", "name"),
        ("kv_cache_memory_bytes", "kv_cache_memory"),
        ("api-key", "The worker decides"),
        ("port", "The worker decides"),
        ("ssl-keyfile", "The worker decides"),
        ("kv-events-config", "The worker decides"),
    ],
)
def test_a_flag_that_is_said_elsewhere_is_refused(flag: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        engine_arguments(spec(engine_args={flag: 1}), "m")
    assert repr(flag) in caught.value.message
    assert advice in caught.value.advice


def test_one_flag_under_two_names_is_refused() -> None:
    with pytest.raises(SettingsError, match="twice"):
        engine_arguments(spec(engine_args={"enable-lora": True, "no_enable_lora": False}), "m")


@pytest.mark.parametrize(
    "args",
    [{"no-enable-prefix-caching": True}, {"enable_prefix_caching": False}, {"runner": "pooling"}],
)
def test_without_a_prefix_cache_there_are_no_events(args: dict[str, Any]) -> None:
    assert publishes_events(spec())
    assert not publishes_events(spec(engine_args=args))


def test_rhizomes_own_variables_stay_out_of_the_engine() -> None:
    base = {"PATH": "/bin", "RHIZOME_REDIS__URL": "redis://:secret@host", "OMP_NUM_THREADS": "8"}
    environment = engine_environment(spec(), base, model_is_local=False)
    assert environment["PATH"] == "/bin"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert not [name for name in environment if name.startswith("RHIZOME")]
    assert "HF_HUB_OFFLINE" not in environment


def test_a_local_model_is_loaded_offline() -> None:
    environment = engine_environment(spec(cpus_per_worker=4), {}, model_is_local=True)
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "4"
