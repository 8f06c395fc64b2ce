"""Model directories are found without a network and refused with advice when unusable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rhizome.errors import ModelUnusable
from rhizome.render.files import model_directory, read_files
from rhizome.render.renderer import load_renderer
from tests.support.render_models import TEMPLATES, write_model

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), "byte_level", None)


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def _configure(directory: Path, **settings: object) -> None:
    path = directory / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_given_directory_wins(tmp_path: Path) -> None:
    assert model_directory(tmp_path / "any", "/", {}) == tmp_path / "any"


def test_a_local_root_is_taken(tmp_path: Path) -> None:
    assert model_directory(None, str(tmp_path), {}) == tmp_path


@pytest.mark.parametrize(
    "root", [None, "", "org/model", "../../no/such", "/no/such/place", "a\x00b"]
)
def test_what_is_not_here_is_nowhere(root: str | None, tmp_path: Path) -> None:
    assert model_directory(None, root, {"HF_HUB_CACHE": str(tmp_path)}) is None


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_cached_snapshot_is_found_by_its_hub_name(variable: str, tmp_path: Path) -> None:
    below = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}[variable]
    repository = tmp_path / below / "models--org--model"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    environment = {variable: str(tmp_path)}
    assert model_directory(None, "org/model", environment) is None
    (snapshot / "tokenizer.json").write_text("{}")
    assert model_directory(None, "org/model", environment) == snapshot
    (repository / "refs" / "main").write_text("../../..")
    assert model_directory(None, "org/model", environment) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": 5}}'),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer_config.json", b"nonsense"),
        ("tokenizer_config.json", b'{"chat_template": [1]}'),
        ("config.json", b"3"),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_a_broken_file_is_named_and_advice_given(
    copy: Path, name: str, content: bytes | None
) -> None:
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_bytes(content)
    with pytest.raises(ModelUnusable) as caught:
        load_renderer(copy)
    assert name in caught.value.message
    assert caught.value.advice


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="nowhere"):
        load_renderer(tmp_path / "nowhere")


def test_the_template_file_wins_over_the_configuration(copy: Path) -> None:
    _configure(copy, chat_template="configured")
    assert load_renderer(copy).chat_text(HELLO) == "configured"
    (copy / "chat_template.jinja").write_text("from the file")
    assert load_renderer(copy).chat_text(HELLO) == "from the file"


def test_named_templates_are_chosen_by_the_tools(copy: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    _configure(copy, chat_template=named)
    renderer = load_renderer(copy)
    tool = {"type": "function", "function": {"name": "f"}}
    assert renderer.chat_text(HELLO) == "plain"
    assert renderer.chat_text({**HELLO, "tools": [tool]}) == "tools"


def test_additional_template_files_are_read(copy: Path) -> None:
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (copy / "chat_template.jinja").write_text("plain")
    assert read_files(copy).templates == {"default": "plain", "tool_use": "tools"}


def test_a_processor_template_serves_requests_without_tools(copy: Path) -> None:
    _configure(copy, chat_template="tokenizer")
    (copy / "preprocessor_config.json").write_text("{}")
    (copy / "chat_template.json").write_text(json.dumps({"chat_template": "processor"}))
    renderer = load_renderer(copy)
    assert renderer.chat_text(HELLO) == "processor"
    tool = {"type": "function", "function": {"name": "f"}}
    assert renderer.chat_text({**HELLO, "tools": [tool]}) == "tokenizer"


def test_no_template_means_no_chat_but_text(model: Path) -> None:
    renderer = load_renderer(model)
    assert not renderer.has_chat_template
    assert renderer.chat(HELLO) is None
    assert renderer.detokenize(renderer.text("Hello")) == "Hello"


def test_a_template_that_does_not_compile_leaves_text(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "chat_template.jinja").write_text("{% for %}")
    renderer = load_renderer(copy)
    assert renderer.chat(HELLO) is None
    assert renderer.text("Hello")
    assert "cannot be compiled" in caplog.text


@pytest.mark.parametrize("architecture", ["GptOssForCausalLM", "DeepseekV32ForCausalLM"])
def test_models_with_a_format_of_their_own_are_not_rendered(
    tmp_path: Path, architecture: str
) -> None:
    directory = write_model(
        tmp_path, "byte_level", TEMPLATES["chatml"], {"architectures": [architecture]}
    )
    assert load_renderer(directory).chat(HELLO) is None


def test_mistrals_own_tokenizer_files_take_precedence_in_the_engine(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text(TEMPLATES["chatml"])
    assert load_renderer(copy).chat(HELLO) is not None
    (copy / "consolidated.safetensors").touch()
    (copy / "tekken.json").touch()
    assert load_renderer(copy).chat(HELLO) is None
