from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, cast

from loadtest.comparison.remembering import RememberingRenderer
from rhizome.render.renderer import Renderer

CHAT = [{"role": "user", "content": "a"}]


class CountingRenderer:
    """Gives each call a prompt of its own."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun, self.hold = Event(), Event()
        self.hold.set()

    def chat_ids(self, body: Mapping[str, Any], limit_s: float) -> list[int]:
        self.calls += 1
        self.begun.set()
        assert self.hold.wait(60)
        return [self.calls]

    def detokenize(self, ids: list[int]) -> str:
        return str(ids)


def remembering() -> RememberingRenderer:
    return RememberingRenderer(cast("Renderer", CountingRenderer()))


def test_the_same_prompt_is_rendered_once_whatever_else_is_asked_for() -> None:
    renderer = remembering()
    first = renderer.chat_ids({"messages": CHAT, "max_tokens": 5, "stream": True})
    assert renderer.chat_ids({"messages": CHAT, "continue_final_message": False}) == first


def test_who_asks_meanwhile_waits_for_the_first() -> None:
    counting = CountingRenderer()
    renderer = RememberingRenderer(cast("Renderer", counting))
    counting.hold.clear()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(renderer.chat_ids, {"messages": CHAT}) for _ in range(4)]
        assert counting.begun.wait(60)
        counting.hold.set()
        assert [one.result(60) for one in asked] == [[1]] * 4


def test_what_decides_a_prompt_tells_prompts_apart() -> None:
    renderer = remembering()
    first = renderer.chat_ids({"messages": CHAT})
    assert renderer.chat_ids({"messages": CHAT, "tools": [{"a": 1}]}) != first
    assert renderer.chat_ids({"messages": CHAT, "add_generation_prompt": False}) != first


def test_the_rest_is_the_renderers_own() -> None:
    assert remembering().detokenize([1]) == "[1]"
