"""Tool calls in the Hermes form, made up and read back as vLLM 0.32's `hermes` parser reads them.

A model that has to call says `<tool_call>{"name": ..., "arguments": ...}</tool_call>`, with
arguments that satisfy the tool's schema.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rhizome.ids import new_id
from workers.engine.simulated.asked.schemas import Instances, SchemaFault
from workers.engine.simulated.server.refusals import Refusal

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')
_ARGUMENTS = re.compile(r'"arguments"\s*:\s*')


def call_text(functions: Sequence[Mapping[str, Any]], rng: random.Random, words: list[str]) -> str:
    """A call of one of the functions; raises `Refusal` for a schema that nothing satisfies."""
    function = rng.choice(functions)
    schema = function.get("parameters") or {"type": "object"}
    try:
        arguments = Instances(schema, rng, words).value()
    except SchemaFault as fault:
        raise Refusal(f"Grammar error: {fault}") from fault
    call = json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)
    return f"{_OPEN}{call}{_CLOSE}"


def whole_call(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text before a call, and the call; a call that was cut is text."""
    before, opened, rest = text.partition(_OPEN)
    said, _, _ = rest.partition(_CLOSE)
    call = _decoded(said) if opened else None
    if not isinstance(call, dict) or not {"name", "arguments"} <= set(call):
        return text, []
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return before, [{"id": _call_id(), "type": "function", "function": function}]


class CallReader:
    """Turns the text of one choice, as it comes, into what its chunks carry."""

    def __init__(self) -> None:
        self.called = False
        self._text = ""
        self._sent_chars = 0
        self._sent_arguments = ""

    def feed(self, text: str) -> dict[str, Any] | None:
        """The `delta` that the new text makes, None for none."""
        self._text += text
        content = self._content()
        calls = self._calls()
        if calls:
            return {"content": content, "tool_calls": calls}
        return {"content": content} if content else None

    def _content(self) -> str | None:
        """Text that is surely before any call, and not told yet."""
        end = self._text.find(_OPEN)
        if end < 0:
            end = len(self._text) - _overlap(self._text, _OPEN)
        if end <= self._sent_chars:
            return None
        content, self._sent_chars = self._text[self._sent_chars : end], end
        return content

    def _calls(self) -> list[dict[str, Any]]:
        _, opened, rest = self._text.partition(_OPEN)
        if not opened:
            return []
        said, closed, _ = rest.partition(_CLOSE)
        said = (said if closed else said[: len(said) - _overlap(said, _CLOSE)]).strip()
        deltas: list[dict[str, Any]] = []
        name = _NAME.search(said)
        if name is None:
            return []
        if not self.called:
            self.called = True
            function = {"name": name[1]}
            deltas.append({"id": _call_id(), "type": "function", "index": 0, "function": function})
        arguments = _arguments(said, whole=bool(closed) or _decoded(said) is not None)
        if len(arguments) > len(self._sent_arguments):
            new = arguments[len(self._sent_arguments) :]
            self._sent_arguments = arguments
            deltas.append({"index": 0, "function": {"arguments": new}})
        return deltas


def _arguments(said: str, *, whole: bool) -> str:
    """What there is of the arguments; `whole` if the object around them is closed."""
    found = _ARGUMENTS.search(said)
    if found is None:
        return ""
    raw = said[found.end() :]
    return raw.rstrip().removesuffix("}").rstrip() if whole else raw


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)


def _call_id() -> str:
    return f"chatcmpl-tool-{new_id('x')[2:18]}"
