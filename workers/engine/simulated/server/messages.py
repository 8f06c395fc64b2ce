"""`/v1/messages` as vLLM 0.32 serves it: Anthropic's envelope around a chat.

Errors that are found after the body has been read have Anthropic's form, and those of the body
itself have vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from workers.engine.simulated.server.answers import (
    Question,
    created_tokens,
    escaped,
    plain,
    quoted,
)
from workers.engine.simulated.server.message_bodies import MessageBody
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.refusals import MALFORMED, Refusal
from workers.engine.simulated.server.tool_calls import CallReader, whole_call

_encode = msgspec.json.Encoder().encode


def refused(refusal: Refusal) -> bytes:
    """The refusal in Anthropic's form, unless it is of the body itself."""
    if refusal.kind == MALFORMED:
        return refusal.body()
    return _encode({"type": "error", "error": {"type": refusal.kind, "message": refusal.message}})


class WholeMessage:
    """A message in one piece."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        script = choice.script
        if end < script.length:
            return
        heading = self._question.heading
        text = script.text(0, end)
        calls: list[dict[str, Any]] = []
        if _must_call(self._question):
            said, calls = whole_call(plain(text))
            text = escaped(said)
        content = [{"type": "text", "text": quoted(text)}] if text or not calls else []
        reason, sequence = _stop_of(choice, called=bool(calls))
        fields: dict[str, Any] = {
            "id": heading.request_id,
            "type": "message",
            "role": "assistant",
            "content": [*content, *(_use(call) for call in calls)],
            "model": heading.model,
            "stop_reason": reason,
        }
        if sequence is not None:
            fields["stop_sequence"] = sequence
        fields["usage"] = _usage(self._question, choice)
        self._question.exchange.reply(200, _encode(fields))


class MessageStream:
    """A message as Anthropic's events, with a block of text or of a call's arguments."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._reader = CallReader() if _must_call(question) else None
        self._begun = False
        self._block = -1
        """Number of the newest block."""
        self._open = ""
        """What kind of block is open."""

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        script = choice.script
        if not self._begun:
            self._begun = True
            self._begin(choice)
        text = script.text(first, end)
        if self._reader is None:
            self._say(quoted(text))
        else:
            self._tell(self._reader.feed(plain(text)) or {})
        if end < script.length:
            return
        self._close()
        called = self._reader is not None and self._reader.called
        reason, sequence = _stop_of(choice, called=called)
        stop = {"stop_reason": reason, "stop_sequence": sequence}
        usage = _usage(self._question, choice)
        self._send({"type": "message_delta", "delta": stop, "usage": usage})
        self._send({"type": "message_stop"})
        self._question.exchange.end(b"")

    def _begin(self, choice: Choice) -> None:
        heading = self._question.heading
        message: dict[str, Any] = {
            "id": heading.request_id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": heading.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": choice.script.prompt_len, "output_tokens": 0},
        }
        self._send({"type": "message_start", "message": message})

    def _tell(self, delta: Mapping[str, Any]) -> None:
        """What a parser of calls made of new text."""
        if delta.get("content"):
            self._say(delta["content"])
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "name" in function:
                begun = {"id": call["id"], "name": function["name"], "input": {}}
                self._enter({"type": "tool_use"} | begun)
            if function.get("arguments"):
                self._add({"type": "input_json_delta", "partial_json": function["arguments"]})

    def _say(self, text: str | msgspec.Raw) -> None:
        if self._open != "text":
            self._enter({"type": "text", "text": ""})
        self._add({"type": "text_delta", "text": text})

    def _enter(self, block: Mapping[str, Any]) -> None:
        self._close()
        self._open = block["type"]
        self._block += 1
        self._send({"type": "content_block_start", "content_block": block, "index": self._block})

    def _add(self, delta: Mapping[str, Any]) -> None:
        self._send({"type": "content_block_delta", "delta": delta, "index": self._block})

    def _close(self) -> None:
        if self._open:
            self._open = ""
            self._send({"type": "content_block_stop", "index": self._block})

    def _send(self, fields: Mapping[str, Any]) -> None:
        kind, data = str(fields["type"]).encode(), _encode(fields)
        self._question.exchange.send(b"event: %b\ndata: %b\n\n" % (kind, data))


def tell_fault(question: Question, refusal: Refusal) -> None:
    """vLLM cannot read its own refusal within a stream, and tells that."""
    fault = {"type": "internal_error", "message": refusal.message}
    data = _encode({"type": "error", "error": fault})
    question.exchange.begin_stream()
    question.exchange.end(b"event: error\ndata: %b\n\n" % data)


def _must_call(question: Question) -> bool:
    assert isinstance(question.body, MessageBody)
    return question.body.must_call


def _use(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as a block of a message."""
    function = call["function"]
    arguments = msgspec.Raw(function["arguments"].encode())
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _stop_of(choice: Choice, *, called: bool) -> tuple[str, str | None]:
    """Why it ended, and the stop sequence that did it."""
    script = choice.script
    if script.finish_reason == "length":
        return "max_tokens", None
    if called:
        return "tool_use", None
    if isinstance(script.stop_reason, str):
        return "stop_sequence", script.stop_reason
    return "end_turn", None


def _usage(question: Question, choice: Choice) -> dict[str, int]:
    """Tokens as Anthropic counts them: those read from and put into the cache are apart."""
    created = created_tokens(choice, question.block_size)
    script = choice.script
    return {
        "input_tokens": max(0, script.prompt_len - choice.cached_tokens - created),
        "output_tokens": script.length,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": choice.cached_tokens,
    }
