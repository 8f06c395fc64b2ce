"""Rendering never fails a request: it is exact, or approximate with a reason."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rhizome.clock import SystemClock
from rhizome.render.outcomes import CannotRender, Rendered, Why
from rhizome.render.remembering import TokenPart
from rhizome.render.renderer import Renderer, load_renderer
from rhizome.settings.tree import RenderingSettings
from router.faults import Faults, Part
from router.http.bodies import CompletionBody, read_chat, read_completion, read_tokenizer_body
from router.prefix.hashing import block_hashes
from router.render import rendering as module
from router.render.approximate import render_approximate
from router.render.lane import Lane
from router.render.rendering import SHORT_BYTES_MAX, Rendering
from tests.support.render_bodies import BODIES, ODD_BODIES
from tests.support.render_models import TEMPLATES, write_model
from tests.support.waiting import eventually


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

    def build(used: Any = renderer, faults: Faults | None = None, **limits: float) -> Rendering:
        settings = RenderingSettings(**{"stall_s": 20, "deadline_s": 20, **limits})
        clock = SystemClock()
        made.append(Rendering(used, faults or Faults(clock), settings, clock))
        return made[-1]

    yield build
    for rendering in made:
        rendering.close()


def _chat(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", **fields})


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _ids(rendered: Rendered) -> list[int]:
    assert rendered.token_ids is not None
    return list(rendered.token_ids)


class _Fails:
    """A renderer whose every use raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def chat_parts(self, body: object, limit_s: float) -> list[TokenPart]:
        raise self._error


class _Blocks:
    """A renderer that renders only once it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def chat_parts(self, body: object, limit_s: float) -> list[TokenPart]:
        assert self.let_go.wait(20)
        return [TokenPart([1])]


async def test_short_and_long_prompts_are_exact(make: Make, renderer: Renderer) -> None:
    rendering = make()
    for text in ("short", "long " * SHORT_BYTES_MAX):
        body = read_chat(_chat(messages=_user(text)))
        rendered = await rendering.render(body)
        assert (rendered.exact, rendered.why, rendered.text) == (True, Why.EXACT, b"")
        assert _ids(rendered) == renderer.chat(body.fields)


async def test_hashes_of_a_conversation_are_those_of_its_ids(make: Make) -> None:
    rendering = make()
    messages = [
        {"role": "user" if turn % 2 else "system", "content": "é" * turn} for turn in range(12)
    ]
    for turns in (5, 1, 12, 12):
        for root, size in ((1, 16), (2, 16), (1, 5)):
            rendered = await rendering.render(read_chat(_chat(messages=messages[:turns])))
            assert rendered.hashes is not None
            assert rendered.hashes(root, size) == block_hashes(_ids(rendered), size, root)


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
        assert (_ids(rendered), rendered.why) == (token_ids, why)
        assert rendered.exact is (why is Why.EXACT)


async def test_token_ids_need_no_tokenizer_and_are_cut_as_by_the_engine(make: Make) -> None:
    rendering = make(None)
    body = _chat(prompt=[1, 2, 3, 4], truncate_prompt_tokens=2)
    assert _ids(await rendering.render(read_completion(body))) == [3, 4]
    body = _chat(prompt=[1, 2, 3, 4], truncate_prompt_tokens=2, truncation_side="right")
    assert _ids(await rendering.render(read_completion(body))) == [1, 2]


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
    text = "x" * (SHORT_BYTES_MAX if long else 1)
    rendered = await make(_Fails(error)).render(read_chat(_chat(messages=_user(text))))
    assert (rendered.token_ids, rendered.why) == (None, why)
    assert rendered.text


@pytest.mark.parametrize("garbage", [None, "text", [1.5], [-1], [2**40], ["a"], {"a": 1}])
async def test_garbage_for_token_ids_is_an_approximation(make: Make, garbage: Any) -> None:
    class Garbled:
        def completion_ids(self, body: object, prompt: str) -> Any:
            return garbage

    rendered = await make(Garbled()).render(read_completion(_chat(prompt="x")))
    assert (rendered.token_ids, rendered.why) == (None, Why.TOKENIZER_FAILED)


@pytest.mark.parametrize("text", ["x", "x" * SHORT_BYTES_MAX], ids=["short", "long"])
async def test_after_a_stall_nobody_waits_until_the_threads_are_free(make: Make, text: str) -> None:
    blocks, faults = _Blocks(), Faults(SystemClock())
    rendering = make(blocks, faults, stall_s=0.02, pause_s=100)
    body = read_chat(_chat(messages=_user(text)))
    ends = [(await rendering.render(body)).why for _ in range(20)]
    stalled = 1 if text == "x" else 2
    assert ends == [Why.DEADLINE] * stalled + [Why.STALLED] * (20 - stalled)
    assert faults.counts == {Part.TOKENIZER: 20}
    blocks.let_go.set()

    async def is_well() -> bool:
        return (await rendering.render(body)).exact

    await eventually(is_well)


def test_only_long_prompts_are_allowed_more_than_a_stall() -> None:
    lane = Lane(1, 8, RenderingSettings(), SystemClock())
    assert lane.allowance_s(SHORT_BYTES_MAX) == lane.allowance_s(0) == 0.012
    assert lane.allowance_s(100_000) == pytest.approx(0.2)
    assert lane.allowance_s(2**30) == RenderingSettings().deadline_s


async def test_threads_that_stay_held_are_replaced_a_few_times_only(make: Make) -> None:
    blocks = _Blocks()
    rendering = make(blocks, stall_s=0.01, pause_s=0.02)
    body = read_chat(_chat(messages=_user("x")))
    before = threading.active_count()
    for _ in range(100):
        assert not (await rendering.render(body)).exact
        await asyncio.sleep(0.005)
    assert before < threading.active_count() <= before + 4
    blocks.let_go.set()


async def test_short_prompts_do_not_wait_behind_long_ones(make: Make) -> None:
    blocks = _Blocks()

    class OnlyLongOnesBlock:
        def chat_parts(self, body: Any, limit_s: float) -> list[TokenPart]:
            long = len(body["messages"][0]["content"]) > 10
            return blocks.chat_parts(body, limit_s) if long else [TokenPart([7])]

    rendering = make(OnlyLongOnesBlock())
    long = read_chat(_chat(messages=_user("x" * SHORT_BYTES_MAX)))
    waiting = [asyncio.ensure_future(rendering.render(long)) for _ in range(10)]
    await asyncio.sleep(0)
    short = await rendering.render(read_chat(_chat(messages=_user("x"))))
    assert _ids(short) == [7]
    assert not any(one.done() for one in waiting)
    blocks.let_go.set()
    assert all(one.exact for one in await asyncio.gather(*waiting))


async def test_a_burst_waits_for_its_turn_and_stays_exact(make: Make) -> None:
    class Slow:
        def chat_parts(self, body: object, limit_s: float) -> list[TokenPart]:
            time.sleep(0.005)
            return [TokenPart([1])]

    rendering = make(Slow(), stall_s=2.0)
    body = read_chat(_chat(messages=_user("x")))
    rendered = await asyncio.gather(*(rendering.render(body) for _ in range(50)))
    assert all(one.exact for one in rendered)


async def test_a_client_that_leaves_takes_its_prompt_out_of_the_line(make: Make) -> None:
    blocks = _Blocks()
    rendering = make(blocks)
    body = read_chat(_chat(messages=_user("x")))
    first = asyncio.ensure_future(rendering.render(body))
    left = [asyncio.ensure_future(rendering.render(body)) for _ in range(module.WAITING_MAX - 1)]
    await asyncio.sleep(0.01)
    for one in left:
        one.cancel()
    await asyncio.wait(left)
    last = asyncio.ensure_future(rendering.render(body))
    await asyncio.sleep(0.01)
    blocks.let_go.set()
    assert (await first).exact
    assert (await last).exact


async def test_the_number_waiting_is_bounded_and_recovers(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 3)
    blocks = _Blocks()
    rendering = make(blocks)
    body = read_chat(_chat(messages=_user("x" * SHORT_BYTES_MAX)))
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
    monkeypatch.setattr(module, "INLINE_BYTES_MAX", 50)
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
