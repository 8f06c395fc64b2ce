"""The router's token ids are those of vLLM's own code, in this process and over its HTTP API."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from cluster.local.ports import free_port
from rhizome.render.outcomes import CannotRender, Why
from rhizome.render.renderer import Renderer, load_renderer
from tests.support.render_bodies import BODIES, ODD_BODIES
from tests.support.render_models import TEMPLATES, TOKENIZERS, write_model

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

ALL_BODIES = {**BODIES, **ODD_BODIES}
_START_S = 200.0
_TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 640,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "torch_dtype": "float32",
}


def _vllm_ids(tokenizer: Any, body: dict[str, Any]) -> list[int] | None:
    """The ids as `/v1/chat/completions` makes them; None where it refuses the request."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.exceptions import VLLMValidationError
    from vllm.renderers.chat_utils import parse_chat_messages
    from vllm.renderers.hf import resolve_chat_template_content_format, safe_apply_chat_template

    config: Any = SimpleNamespace(
        model="m",
        tokenizer="m",
        revision=None,
        code_revision=None,
        tokenizer_revision=None,
        trust_remote_code=False,
        multimodal_config=None,
        enable_prompt_embeds=False,
        max_model_len=4096,
        hf_config=SimpleNamespace(model_type="llama"),
        allowed_local_media_path="",
        allowed_media_domains=None,
    )
    try:
        request = ChatCompletionRequest.model_validate({"model": "m", **copy.deepcopy(body)})
        tools = None if request.tools is None else [tool.model_dump() for tool in request.tools]
        params = request.build_chat_params(None, "auto").with_defaults(
            {"tools": tools, "tokenize": False}
        )
        content_format = resolve_chat_template_content_format(
            None, params.chat_template_kwargs.get("tools"), "auto", tokenizer, model_config=config
        )
        conversation, _, _ = parse_chat_messages(
            request.messages, config, content_format=content_format
        )
        text = safe_apply_chat_template(
            config, tokenizer, conversation, **params.get_apply_chat_template_kwargs()
        )
    except (ValueError, VLLMValidationError):
        return None
    cut = request.build_tok_params(config)
    prompt = {"prompt_token_ids": tokenizer(text, **cut.get_encode_kwargs())["input_ids"]}
    ids: list[int] = cut.apply_post_tokenization(tokenizer, prompt)["prompt_token_ids"]
    return ids


def _ids(renderer: Renderer, body: dict[str, Any]) -> list[int] | Why:
    try:
        return renderer.chat_ids(body)
    except CannotRender as error:
        return error.why


@pytest.mark.filterwarnings("ignore")  # of vLLM's and torch's own imports
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_are_those_of_vllms_own_code(kind: str, tmp_path: Path) -> None:
    """Every template and body; the only one given up is a request's own template."""
    from vllm.tokenizers import get_tokenizer

    for template, source in TEMPLATES.items():
        directory = write_model(tmp_path / template, kind, source)
        tokenizer = get_tokenizer(str(directory))
        renderer = load_renderer(directory)
        for name, body in ALL_BODIES.items():
            expected = _vllm_ids(tokenizer, body)
            ids = _ids(renderer, body)
            if name == "own_template":
                assert ids is Why.REQUEST_TEMPLATE
            else:
                assert (ids if isinstance(ids, list) else None) == expected, (template, name)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; vLLM makes its weights up."""
    root = tmp_path_factory.mktemp("tiny")
    return write_model(root, "byte_level_bos", TEMPLATES["tools_json"], _TINY)


@pytest.fixture(scope="module")
def vllm(directory: Path) -> Iterator[httpx.Client]:
    """A client of a real vLLM server that is ready."""
    port = free_port("127.0.0.1", frozenset())
    arguments = (
        f"--model {directory} --served-model-name m --host 127.0.0.1 --port {port} "
        "--load-format dummy --enforce-eager --kv-cache-memory-bytes 50M --max-model-len 2048 "
        "--enable-scale-out --enable-auto-tool-choice --tool-call-parser hermes"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(directory / "cache"),
    }
    log = directory / "server.txt"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments.split()]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=directory
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_ready(client, server, log)
            yield client
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_ready(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + _START_S
    while time.monotonic() < ends:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(log.read_text()[-4000:])


def test_ids_are_those_of_a_real_server(vllm: httpx.Client, directory: Path) -> None:
    renderer = load_renderer(directory)
    compared = 0
    for name, body in ALL_BODIES.items():
        ids = _ids(renderer, body)
        answer = vllm.post("/v1/chat/completions/render", json={"model": "m", **body})
        if answer.status_code != 200:
            assert not isinstance(ids, list) or answer.status_code == 400, (name, answer.text)
            continue
        assert answer.json()["token_ids"] == ids, name
        compared += 1
    assert compared >= len(ALL_BODIES) - 8


def test_tokenize_of_a_real_server_agrees(vllm: httpx.Client, directory: Path) -> None:
    renderer = load_renderer(directory)
    for name in ("plain", "system", "turns", "unicode", "empty", "tools", "parts", "specials"):
        body = BODIES[name]
        answer = vllm.post("/tokenize", json={"model": "m", **body}).json()
        assert answer["tokens"] == renderer.chat(body), name
    for text in ("Once upon <s> a time 🙂", " <mask>  x", "\n\n"):
        for add in (True, False):
            body = {"model": "m", "prompt": text, "add_special_tokens": add}
            ids = vllm.post("/tokenize", json=body).json()["tokens"]
            assert ids == renderer.text(text, add_special_tokens=add)
            answer = vllm.post("/detokenize", json={"model": "m", "tokens": ids}).json()
            assert answer["prompt"] == renderer.detokenize(ids)


def test_the_engine_counts_the_tokens_that_were_rendered(
    vllm: httpx.Client, directory: Path
) -> None:
    renderer = load_renderer(directory)
    for name in ("turns", "tool_calls", "parts", "continued"):
        body = {"model": "m", "max_tokens": 1, "temperature": 0, **BODIES[name]}
        answer = vllm.post("/v1/chat/completions", json=body).json()
        assert answer["usage"]["prompt_tokens"] == len(_ids(renderer, body) or ()), name
