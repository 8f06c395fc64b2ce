"""Rendering never fails a request: it is exact, or approximate with a reason."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rhizome.render.outcomes import CannotRender, Why
from rhizome.render.renderer import Renderer, load_renderer
from router.http.bodies import CompletionBody, read_chat, read_completion, read_tokenizer_body
from router.render import rendering as module
from router.render.approximate import render_approximate
from router.render.rendering import INLINE_BYTES_MAX, Rendering
from tests.support.render_bodies import BODIES, ODD_BODIES
from tests.support.render_models import TEMPLATES, write_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("m"), "byte_level_bos", TEMPLATES["tools_json"])


@pytest.fixture(scope="module")
def renderer(directory: Path) -> Renderer:
    return load_renderer(directory)


Make = Callable[..., Rendering]


@pytest.fixture
async def make(renderer: Renderer) -> AsyncIterator[Make]:
    made: list[Rendering] = []

    def build(used: Any = renderer, **limits: float) -> Rendering:
        made.append(Rendering(used, **limits))
        return made[-1]

    yield build
    for rendering in made:
        rendering.close()


def _chat(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", **fields})


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class _Fails:
    """A renderer whose every use raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def chat_ids(self, body: object, limit_s: float) -> list[int]:
        raise self._error


class _Blocks:
    """A renderer that renders only once it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def chat_ids(self, body: object, limit_s: float) -> list[int]:
        assert self.let_go.wait(20)
        return [1]


async def test_short_and_long_prompts_are_exact(make: Make, renderer: Renderer) -> None:
    rendering = make()
    for text in ("short", "long " * INLINE_BYTES_MAX):
        body = read_chat(_chat(messages=_user(text)))
        rendered = await rendering.render(body)
        assert (rendered.exact, rendered.why, rendered.text) == (True, Why.EXACT, b"")
        assert rendered.token_ids == renderer.chat(body.fields)


async def test_completions_are_exact_in_every_form(make: Make, renderer: Renderer) -> None:
    rendering = make()
    forms: list[tuple[Any, list[int], Why]] = [
        ("Once", renderer.text("Once"), Why.EXACT),
        (["Once", "Twice"], renderer.text("Once"), Why.SEVERAL_PROMPTS),
        ([5, 6, 7], [5, 6, 7], Why.EXACT),
        ([[5, 6], [7]], [5, 6], Why.SEVERAL_PROMPTS),
    ]
    for prompt, token_ids, why in forms:
        rendered = await rendering.render(read_completion(_chat(prompt=prompt)))
        assert (rendered.token_ids, rendered.why) == (token_ids, why)
        assert rendered.exact is (why is Why.EXACT)


async def test_token_ids_need_no_tokenizer_and_are_cut_as_by_the_engine(make: Make) -> None:
    rendering = make(None)
    body = _chat(prompt=[1, 2, 3, 4], truncate_prompt_tokens=2)
    assert (await rendering.render(read_completion(body))).token_ids == [3, 4]
    body = _chat(prompt=[1, 2, 3, 4], truncate_prompt_tokens=2, truncation_side="right")
    assert (await rendering.render(read_completion(body))).token_ids == [1, 2]


async def test_without_a_tokenizer_bytes_stand_in(make: Make) -> None:
    body = read_chat(_chat(messages=_user("Hi")))
    rendered = await make(None).render(body)
    assert (rendered.token_ids, rendered.why) == (None, Why.NO_TOKENIZER)
    assert rendered.text == render_approximate(body.fields)


async def test_what_only_the_engine_knows_is_approximate(make: Make) -> None:
    image = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    call = {"kv_transfer_params": {"prompt_token_ids": [1]}}
    reasons: list[tuple[dict[str, Any], Why]] = [
        ({"messages": [{"role": "user", "content": image}]}, Why.MEDIA),
        ({"messages": _user("x"), "chat_template": "{{ 1 }}"}, Why.REQUEST_TEMPLATE),
        (
            {"messages": _user("x"), "chat_template_kwargs": {"chat_template": "x"}},
            Why.REQUEST_TEMPLATE,
        ),
        ({"messages": _user("x"), "chat_template_kwargs": {"tokenize": True}}, Why.SHAPE),
        ({"messages": _user("x"), "truncate_prompt_tokens": -1}, Why.SHAPE),
        ({"messages": _user("x"), "continue_final_message": True}, Why.SHAPE),
        ({"messages": _user("x"), "add_special_tokens": "yes"}, Why.SHAPE),
        ({"messages": _user("x"), **call}, Why.OTHER_FORMAT),
    ]
    rendering = make()
    for fields, why in reasons:
        rendered = await rendering.render(read_chat(_chat(**fields)))
        assert (rendered.token_ids, rendered.why, rendered.exact) == (None, why, False)
        assert rendered.text
    filled = read_completion(_chat(prompt="def f(", suffix="return"))
    assert (await rendering.render(filled)).why is Why.OTHER_FORMAT
    assert (await rendering.render(read_tokenizer_body(_chat(prompt="x")))).why is Why.NO_PROMPT


async def test_no_body_that_can_be_read_is_an_error(make: Make) -> None:
    rendering = make()
    for body in (*BODIES.values(), *ODD_BODIES.values()):
        rendered = await rendering.render(read_chat(_chat(**body)))
        assert (rendered.token_ids is None) == (not rendered.exact)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CannotRender(Why.TOKENIZER_FAILED), Why.TOKENIZER_FAILED),
        (RuntimeError("a bug"), Why.FAULT),
        (MemoryError(), Why.FAULT),
    ],
)
async def test_any_failure_is_an_approximation(
    make: Make, error: Exception, why: Why, long: bool
) -> None:
    text = "x" * (INLINE_BYTES_MAX if long else 1)
    rendered = await make(_Fails(error)).render(read_chat(_chat(messages=_user(text))))
    assert (rendered.token_ids, rendered.why) == (None, why)
    assert rendered.text


async def test_a_slow_template_leaves_the_loop_after_its_first_time(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "{% for i in range(99999) %}{% endfor %}{{ messages[0].content }}"
    rendering = make(load_renderer(write_model(tmp_path, "byte_level", source)), deadline_s=20)
    monkeypatch.setattr(module, "INLINE_S", 0.0)
    body = read_chat(_chat(messages=_user("x")))
    assert (await rendering.render(body)).exact
    monkeypatch.setattr(module, "INLINE_S", 100.0)
    before = set(threading.enumerate())
    assert (await rendering.render(body)).exact
    assert any(thread.name.startswith("render") for thread in before)


async def test_a_long_wait_ends_at_the_deadline(make: Make) -> None:
    blocks = _Blocks()
    rendering = make(blocks, deadline_s=0.05)
    body = read_chat(_chat(messages=_user("x" * INLINE_BYTES_MAX)))
    assert (await rendering.render(body)).why is Why.DEADLINE
    blocks.let_go.set()


async def test_the_number_waiting_is_bounded_and_recovers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    blocks = _Blocks()
    rendering = make(blocks, deadline_s=20)
    body = read_chat(_chat(messages=_user("x" * INLINE_BYTES_MAX)))
    waiting = [asyncio.ensure_future(rendering.render(body)) for _ in range(5)]
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert {task.result().why for task in done} == {Why.BUSY}
    blocks.let_go.set()
    ends = [(await task).why for task in waiting]
    assert sorted(ends) == sorted([Why.EXACT] * 3 + [Why.BUSY] * 2)
    assert (await rendering.render(body)).exact


async def test_a_body_that_is_too_long_is_not_tokenized(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BODY_BYTES_MAX", 100)
    rendered = await make().render(read_chat(_chat(messages=_user("x" * 100))))
    assert rendered.why is Why.OUTPUT_TOO_LONG


def test_threads_render_alike(renderer: Renderer) -> None:
    bodies = [{"messages": _user(f"{index} " * 50)} for index in range(40)]
    expected = [renderer.chat(body) for body in bodies]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(renderer.chat, bodies * 5)) == expected * 5


def test_a_completion_of_embeddings_has_no_prompt() -> None:
    body = read_completion(_chat(prompt_embeds="AAAA"))
    assert isinstance(body, CompletionBody)
    assert body.prompts == []
