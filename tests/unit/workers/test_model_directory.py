from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from rhizome.errors import ModelUnusable
from workers.demo_models import ensure_model
from workers.model_directory import check_model_directory, names_a_directory


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model("demo:mixtral", tmp_path_factory.mktemp("models"))


@pytest.fixture
def model(whole_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_model, tmp_path / "model"))


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="nowhere does not exist"):
        ensure_model(str(tmp_path / "nowhere"), tmp_path)


def test_a_corrupt_configuration_is_named(model: Path) -> None:
    (model / "config.json").write_text("{ not json")
    with pytest.raises(ModelUnusable, match=r"config\.json cannot be read as JSON"):
        check_model_directory(model)


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("config.json", "holds no config.json"),
        ("tokenizer.json", "holds no tokenizer"),
        ("model.safetensors", "holds no weights"),
    ],
)
def test_what_is_missing_is_named(model: Path, lost: str, words: str) -> None:
    (model / lost).unlink()
    with pytest.raises(ModelUnusable, match=words):
        check_model_directory(model)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_truncated_weights_are_found_by_their_header(model: Path, kept: int) -> None:
    file = model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:kept])
    with pytest.raises(ModelUnusable, match=r"model\.safetensors"):
        check_model_directory(model)


@pytest.mark.parametrize("header", [b"[1]", b'{"a": 1}', b'{"a": {"data_offsets": []}}', b"\xff"])
def test_a_header_that_is_none_is_found(model: Path, header: bytes) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelUnusable, match="broken header"):
        check_model_directory(model)


def test_a_missing_shard_is_found(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelUnusable, match=r"lacks 1 weight files of 2: model-2\.safetensors"):
        check_model_directory(model)


@pytest.mark.parametrize("source", ["/models/x", "./x", "../x", "~/x", "a/b/c"])
def test_a_path_means_a_directory(source: str) -> None:
    assert names_a_directory(source)


@pytest.mark.parametrize("source", ["org/model", "model", "org/model-1.5_b"])
def test_a_hub_id_means_no_directory(source: str) -> None:
    assert not names_a_directory(source)
