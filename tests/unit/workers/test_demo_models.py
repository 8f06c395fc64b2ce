from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from jinja2 import Environment, Template
from safetensors import safe_open
from tokenizers import Tokenizer

from rhizome.errors import ModelUnusable
from workers.demo_models import ensure_model
from workers.demo_tokenizer import SPECIAL_TOKENS, TURN_END_ID, train_tokenizer
from workers.demo_weights import to_bfloat16
from workers.model_directory import check_model_directory

TOKENIZER_DIGEST = "893a0b8ebde1a1d41d720f4f69db6cf7d21072bea195a65836949cde204ea7f8"


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model("demo:mixtral", tmp_path_factory.mktemp("models"))


def chat_template(directory: Path) -> Template:
    environment = Environment(autoescape=False)  # noqa: S701 - renders text, not HTML
    environment.filters["tojson"] = json.dumps
    return environment.from_string((directory / "chat_template.jinja").read_text())


def digests(directory: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()
    }


def test_the_same_model_is_made_byte_for_byte_again(mixtral: Path, tmp_path: Path) -> None:
    assert digests(ensure_model("demo:mixtral", tmp_path)) == digests(mixtral)


def test_the_tokenizer_is_the_one_that_was_published() -> None:
    text = train_tokenizer().to_str().encode()
    assert hashlib.sha256(text).hexdigest() == TOKENIZER_DIGEST


def test_the_llama_has_28_million_parameters_and_progress_reaches_the_end(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    directory = ensure_model(
        "demo:llama", tmp_path, lambda phase, share: told.append((phase, share))
    )
    check_model_directory(directory)
    with safe_open(directory / "model.safetensors", framework="numpy") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 - not a mapping
    assert sum(int(np.prod(shape)) for shape in shapes) == pytest.approx(28e6, rel=0.02)
    assert told[-1] == ("making the weights", 1.0)
    assert all(0 <= share <= 1 for _, share in told)


def test_a_model_that_exists_is_not_made_again(mixtral: Path) -> None:
    before = (mixtral / "config.json").stat().st_mtime_ns
    assert ensure_model("demo:mixtral", mixtral.parent) == mixtral
    assert (mixtral / "config.json").stat().st_mtime_ns == before


def test_two_processes_that_want_the_same_model_get_one(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    makers = [spawn.Process(target=ensure_model, args=("demo:mixtral", tmp_path)) for _ in range(2)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["demo-mixtral-1"]


def test_nothing_is_left_when_making_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workers.demo_models.to_bfloat16", full)
    with pytest.raises(ModelUnusable, match="No space left"):
        ensure_model("demo:mixtral", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".demo-mixtral.lock"]


def test_an_unknown_demonstration_model_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable) as caught:
        ensure_model("demo:gpt", tmp_path)
    assert "demo:llama, demo:mixtral" in caught.value.advice


def test_a_hub_id_is_passed_on(tmp_path: Path) -> None:
    assert str(ensure_model("some-org/some-model", tmp_path)) == "some-org/some-model"


@pytest.mark.parametrize(
    "text", ["Hello, world!", "Grüße 東京 🌍\n\tx = {1: 2}", "", " two  spaces "]
)
def test_every_text_survives_the_tokenizer(mixtral: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(mixtral / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_special_tokens_have_the_first_ids_and_end_a_turn(mixtral: Path) -> None:
    tokenizer = Tokenizer.from_file(str(mixtral / "tokenizer.json"))
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    generation = json.loads((mixtral / "generation_config.json").read_text())
    assert TURN_END_ID in generation["eos_token_id"]


def test_a_conversation_extends_its_own_beginning(mixtral: Path) -> None:
    template = chat_template(mixtral)
    first = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    longer = [*first, {"role": "assistant", "content": "Yes"}, {"role": "tool", "content": "7"}]
    prompt = template.render(messages=first, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert template.render(messages=longer, add_generation_prompt=True).startswith(prompt)


def test_tools_are_told_in_the_system_message_and_calls_are_kept(mixtral: Path) -> None:
    template = chat_template(mixtral)
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    text = template.render(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        tools=[{"type": "function", "function": {"name": "add"}}],
    )
    assert text.count("<|im_start|>system") == 1
    assert "Be brief." in text
    assert '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' in text


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    values = np.array([1.0, -2.5, 1.00390625, 1.01171875], np.float32)
    bits = np.frombuffer(to_bfloat16(values), "<u2")
    assert bits.tolist() == [0x3F80, 0xC020, 0x3F80, 0x3F82]
