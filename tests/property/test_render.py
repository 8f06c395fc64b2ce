"""For any messages the ids are those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhizome.render.renderer import Renderer, load_renderer
from tests.support.render_models import SPECIALS, TEMPLATES, write_model

transformers = pytest.importorskip("transformers")

_TEMPLATES = ("chatml", "bracketed", "filters", "loop_controls", "developer", "generation")
_texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.lists(st.sampled_from([*SPECIALS, " ", "\n", "a", "▁", "🙂", "</think>"])).map("".join),
)
_roles = st.sampled_from(["system", "user", "assistant", "tool"])
_messages = st.lists(
    st.builds(lambda role, content: {"role": role, "content": content}, _roles, _texts),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Renderer]]:
    pairs = {}
    for index, template in enumerate(_TEMPLATES):
        kind = ("byte_level_bos", "unigram", "metaspace_rebuilt")[index % 3]
        directory: Path = write_model(tmp_path_factory.mktemp(template), kind, TEMPLATES[template])
        pairs[template] = (
            transformers.AutoTokenizer.from_pretrained(directory),
            load_renderer(directory),
        )
    return pairs


@settings(max_examples=60, deadline=None)
@given(
    template=st.sampled_from(_TEMPLATES),
    messages=_messages,
    add_generation_prompt=st.booleans(),
    add_special_tokens=st.booleans(),
)
def test_random_messages_have_the_ids_of_transformers(
    pairs: dict[str, tuple[Any, Renderer]],
    template: str,
    messages: list[dict[str, str]],
    add_generation_prompt: bool,
    add_special_tokens: bool,
) -> None:
    tokenizer, renderer = pairs[template]
    text = tokenizer.apply_chat_template(
        messages, add_generation_prompt=add_generation_prompt, tokenize=False
    )
    expected = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
    body = {
        "messages": messages,
        "add_generation_prompt": add_generation_prompt,
        "add_special_tokens": add_special_tokens,
    }
    assert renderer.chat(body) == expected
