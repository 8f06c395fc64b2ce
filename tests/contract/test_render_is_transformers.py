"""`Renderer` gives the ids that transformers gives, for templates and tokenizers of many shapes.

That transformers is used by vLLM as it is used here is checked with the `engine` tests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from rhizome.clock import SystemClock
from rhizome.render.outcomes import CannotRender
from rhizome.render.renderer import Renderer, load_renderer
from tests.support.render_bodies import BODIES
from tests.support.render_models import SPECIALS, TEMPLATES, TOKENIZERS, write_model

transformers = pytest.importorskip("transformers")

_LISTS = {"turns", "macros"}
"""Templates that loop over a message's content and so get it as parts."""

Maker = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    made: dict[tuple[str, str], Path] = {}

    def make(tokenizer: str, template: str) -> Path:
        if (tokenizer, template) not in made:
            root = tmp_path_factory.mktemp(f"{tokenizer}-{template}")
            made[tokenizer, template] = write_model(root, tokenizer, TEMPLATES[template])
        return made[tokenizer, template]

    return make


def _as_parts(content: Any) -> list[dict[str, str]]:
    if content is None:
        return []
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _as_text(content: Any) -> str:
    return "\n".join(part["text"] for part in _as_parts(content) if part["text"])


def _conversation(messages: list[dict[str, Any]], as_parts: bool) -> list[dict[str, Any]]:
    """What an engine hands to transformers for these plain messages."""
    result = []
    for message in copy.deepcopy(messages):
        content = message.pop("content")
        reasoning = message.pop("reasoning", None)
        calls = message.pop("tool_calls", [])
        in_parts = as_parts and message["role"] != "tool"
        seen = {"role": message.pop("role")}
        seen["content"] = _as_parts(content) if in_parts else _as_text(content)
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            function = {"arguments": arguments, "name": call["function"]["name"]}
            ordered = {"id": call["id"], "function": function, "type": "function"}
            seen.setdefault("tool_calls", []).append(ordered)
        if reasoning is not None:
            seen |= {"reasoning": reasoning, "reasoning_content": reasoning}
        result.append(seen | message)
    return result


def _tools(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    if "tools" not in body:
        return None
    return [
        {
            "type": "function",
            "function": {
                name: tool["function"].get(name) for name in ("name", "description", "parameters")
            },
        }
        for tool in body["tools"]
    ]


def _expected(tokenizer: Any, body: dict[str, Any], as_parts: bool) -> list[int] | None:
    extra = dict(body.get("chat_template_kwargs", {}))
    if "reasoning_effort" in body:
        extra |= {"reasoning_effort": body["reasoning_effort"], "enable_thinking": True}
    try:
        text = tokenizer.apply_chat_template(
            _conversation(body["messages"], as_parts),
            tools=_tools(body),
            documents=body.get("documents"),
            add_generation_prompt=body.get("add_generation_prompt", True),
            continue_final_message=body.get("continue_final_message", False),
            tokenize=False,
            **extra,
        )
    except Exception:  # a template's own refusal, of any type
        return None
    add = body.get("add_special_tokens", False)
    ids: list[int] = tokenizer(text, add_special_tokens=add)["input_ids"]
    return ids


def _rendered(renderer: Renderer, body: dict[str, Any]) -> list[int] | None:
    before = copy.deepcopy(body)
    ids = renderer.chat(body)
    assert body == before, "rendering changed the request"
    return ids


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_gives_the_ids_of_transformers(template: str, model: Maker) -> None:
    directory = model("byte_level_bos", template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    renderer = load_renderer(directory)
    for name, body in BODIES.items():
        expected = _expected(tokenizer, body, template in _LISTS)
        assert _rendered(renderer, body) == expected, name


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_tokenizer_gives_the_ids_of_transformers(kind: str, model: Maker) -> None:
    directory = model(kind, "tools_json")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    renderer = load_renderer(directory)
    for name, body in BODIES.items():
        assert _rendered(renderer, body) == _expected(tokenizer, body, as_parts=False), name


TEXTS = [
    "",
    " ",
    "Hello there",
    "  two  spaces \n\n and lines\r\n\ttab",
    "<s>[INST] x [/INST]</s><|im_start|> <mask>  <tool_call>  <extra><late> <only_named>",
    "日本語 🙂 e\u0301 \ufb01 \u0000 ▁▁ <0x41>",
    "x" * 3000,
    *SPECIALS,
]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_plain_text_has_the_ids_and_the_decoding_of_transformers(kind: str, model: Maker) -> None:
    directory = model(kind, "chatml")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    renderer = load_renderer(directory)
    for text in TEXTS:
        for add in (True, False):
            ids = renderer.text(text, add_special_tokens=add)
            assert ids == tokenizer(text, add_special_tokens=add)["input_ids"], text
            assert renderer.detokenize(ids) == tokenizer.decode(ids), text


def test_the_rebuilt_llama_tokenizer_differs_from_its_file(model: Maker) -> None:
    text = "<s>[INST] Hello"
    taken = load_renderer(model("metaspace", "chatml")).text(text)
    rebuilt = load_renderer(model("metaspace_rebuilt", "chatml")).text(text)
    assert taken != rebuilt


def test_the_date_is_the_local_one_of_the_clock(model: Maker) -> None:
    renderer = load_renderer(model("byte_level", "dated"))
    now = datetime.fromtimestamp(SystemClock().wall_s()).strftime("%d %b %Y")  # noqa: DTZ006 - local on purpose
    assert renderer.chat_text(BODIES["plain"]).startswith(f"Today is {now}.")


def test_a_template_that_refuses_is_no_error(model: Maker) -> None:
    renderer = load_renderer(model("byte_level", "alternating"))
    twice = {"messages": [BODIES["plain"]["messages"][0]] * 2}
    assert renderer.chat(twice) is None
    with pytest.raises(CannotRender, match="roles must alternate"):
        renderer.chat_text(twice)
