from __future__ import annotations

from pathlib import Path

import pytest

from rhizome.cli.worker import _engine_args, _print_access, _served_name, _spec
from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from rhizome.settings.tree import Settings


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("demo:llama", "demo-llama"),
        ("/models/My Model/", "My-Model"),
        ("org/model-1.5", "org/model-1.5"),
        ("./", "model"),
    ],
)
def test_a_model_without_a_name_is_served_under_one(source: str, name: str) -> None:
    assert _served_name(source) == name


def test_a_model_of_the_settings_is_found_by_name_and_flags_win() -> None:
    known = ModelSpec(name="chat", source="demo:llama", block_size=16, max_model_len=512)
    spec = _spec(Settings(models=(known,)), "chat", None, {"block_size": 32, "seed": None})
    assert (spec.source, spec.block_size, spec.max_model_len) == ("demo:llama", 32, 512)


def test_a_wrong_flag_is_named() -> None:
    with pytest.raises(SettingsError, match="kv_cache_memory"):
        _spec(Settings(), "demo:llama", None, {"kv_cache_memory": "much"})


def test_engine_flags_are_read_as_yaml_values() -> None:
    assert _engine_args(["enable-lora", "max-loras=2", "x=a: [b"]) == {
        "enable-lora": True,
        "max-loras": 2,
        "x": "a: [b",
    }


def test_the_way_to_the_worker_is_printed_without_its_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = EventSource(
        endpoint="tcp://h:1", replay_endpoint="tcp://h:2", topic="kv", curve_key="<k>"
    )
    record = WorkerRecord(
        worker_id="w",
        incarnation="i",
        model="m",
        url="http://h:9",
        state=WorkerState.READY,
        api_key="rzk-secret",
        events=(source,),
    )
    _print_access(record, Path("/keys/w"))
    said = capsys.readouterr().out
    assert "rzk-secret" not in said
    assert (
        "rhizome router --worker "
        "'http://h:9,events=tcp://h:1,replay=tcp://h:2,topic=kv,curve=<k>,key-file=/keys/w'"
    ) in said
