"""`/v1/responses` as vLLM 0.32 serves it without a store: one answer, or typed events.

A response is a chat with another envelope: its prompt is that of `rhizome.render.responses`, and
its one output item is an assistant's message or a call of a function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rhizome.ids import new_id
from workers.engine.simulated.server.answers import (
    Answering,
    Question,
    created_tokens,
    plain,
    quoted,
)
from workers.engine.simulated.server.likelihoods import chat_logprobs
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.refusals import Refusal
from workers.engine.simulated.server.response_bodies import ResponseBody
from workers.engine.simulated.server.tool_calls import CallReader, whole_call

_encode = msgspec.json.Encoder().encode


class WholeResponse:
    """A response in one piece."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._envelope = _Envelope(question)

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        if end < choice.script.length:
            return
        envelope = self._envelope
        output = [envelope.item("completed", [envelope.part(choice)])]
        if envelope.must_call:
            _, calls = whole_call(plain(choice.script.text(0, end)))
            output = [_call_item(one["id"], **one["function"]) for one in calls] or output
        self._question.exchange.reply(200, _encode(envelope.ended(choice, output)))


def streamed(question: Question) -> Answering:
    """A response as typed events, each with its number."""
    envelope = _Envelope(question)
    events = _Events(question, envelope)
    return CallStream(envelope, events) if envelope.must_call else TextStream(envelope, events)


class TextStream:
    """Events of a message."""

    def __init__(self, envelope: _Envelope, events: _Events) -> None:
        self._envelope = envelope
        self._events = events

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        envelope, send, script = self._envelope, self._events.send, choice.script
        place = {"content_index": 0, "item_id": envelope.item_id, "output_index": 0}
        if self._events.begin():
            item = envelope.item("in_progress", [])
            send("response.output_item.added", {"item": item, "output_index": 0})
            part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            send("response.content_part.added", place | {"part": part})
        delta = quoted(script.text(first, end))
        logprobs = envelope.logprobs(choice, first, end) or ()
        shown = [_logprob(entry, "token", "logprob") for entry in logprobs]
        send("response.output_text.delta", place | {"delta": delta, "logprobs": shown})
        if end < script.length:
            return
        text = quoted(script.text(0, end))
        part = envelope.part(choice)
        send("response.output_text.done", place | {"text": text, "logprobs": []})
        send("response.content_part.done", place | {"part": part})
        item = envelope.item("completed", [part])
        send("response.output_item.done", {"item": item, "output_index": 0})
        self._events.end(choice, [item])


def break_off(question: Question, _refusal: Refusal) -> None:
    """A stream that vLLM leaves off without a word."""
    question.exchange.begin_stream()
    _Events(question, _Envelope(question)).begin()
    question.exchange.break_off()


class CallStream:
    """Events of a call; one that is cut before its name is none."""

    def __init__(self, envelope: _Envelope, events: _Events) -> None:
        self._envelope = envelope
        self._events = events
        self._reader = CallReader()
        self._item: dict[str, Any] = {}

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        self._events.begin()
        delta = self._reader.feed(plain(choice.script.text(first, end))) or {}
        for call in delta.get("tool_calls", ()):
            self._tell(call)
        if end == choice.script.length:
            self._end(choice)

    def _tell(self, call: Mapping[str, Any]) -> None:
        function, send = call["function"], self._events.send
        if "name" in function:
            self._item = _call_item(call["id"], function["name"], "", status="in_progress")
            send("response.output_item.added", {"item": self._item, "output_index": 0})
        if function.get("arguments"):
            self._item["arguments"] += function["arguments"]
            told = {"delta": function["arguments"], "item_id": self._item["id"], "output_index": 0}
            send("response.function_call_arguments.delta", told)

    def _end(self, choice: Choice) -> None:
        item, send = self._item, self._events.send
        if item:
            item["status"] = "completed"
            told = {"arguments": item["arguments"], "item_id": item["id"], "output_index": 0}
            send("response.function_call_arguments.done", told, name=item["name"])
            send("response.output_item.done", {"item": item, "output_index": 0})
        self._events.end(choice, [item] if item else [])


class _Events:
    """Sends events with their numbers, the first and the last ones of a response among them."""

    def __init__(self, question: Question, envelope: _Envelope) -> None:
        self._exchange = question.exchange
        self._envelope = envelope
        self._number = 0

    def begin(self) -> bool:
        """Tells that there is a response, once; whether it was now."""
        if self._number:
            return False
        begun = self._envelope.begun()
        self.send("response.created", {"response": begun})
        self.send("response.in_progress", {"response": begun})
        return True

    def send(self, kind: str, fields: Mapping[str, Any], **last: Any) -> None:
        """Fields are told in the order of their names, the `last` ones after the kind."""
        told = dict(sorted([*fields.items(), ("sequence_number", self._number)]))
        data = _encode(told | {"type": kind} | last)
        self._number += 1
        self._exchange.send(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))

    def end(self, choice: Choice, output: list[Any]) -> None:
        self.send("response.completed", {"response": self._envelope.ended(choice, output)})
        self._exchange.end(b"")


class _Envelope:
    """The response object around what is said."""

    def __init__(self, question: Question) -> None:
        body = question.body
        assert isinstance(body, ResponseBody)
        self._question = question
        self._asked = body.asked
        self.item_id = new_id("msg")
        self.must_call = body.must_call

    def part(self, choice: Choice) -> dict[str, Any]:
        length = choice.script.length
        return {
            "annotations": [],
            "text": quoted(choice.script.text(0, length)),
            "type": "output_text",
            "logprobs": self.logprobs(choice, 0, length),
        }

    def logprobs(self, choice: Choice, first: int, end: int) -> list[dict[str, Any]] | None:
        """Of output tokens `first` to `end`, where they are asked for."""
        style = self._question.style
        if style is None:
            return None
        shown = chat_logprobs(choice.script, first, end, style)["content"]
        return [_logprob(entry, "token", "bytes", "logprob") for entry in shown]

    def item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {
            "id": self.item_id,
            "content": content,
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }

    def begun(self) -> dict[str, Any]:
        return self._response("in_progress", None, [], None)

    def ended(self, choice: Choice, output: list[Any]) -> dict[str, Any]:
        script = choice.script
        cut = script.finish_reason == "length"
        usage = {
            "input_tokens": script.prompt_len,
            "input_tokens_details": {
                "cached_tokens": choice.cached_tokens,
                "cache_write_tokens": created_tokens(choice, self._question.block_size),
                "input_tokens_per_turn": [],
                "cached_tokens_per_turn": [],
            },
            "output_tokens": script.length,
            "output_tokens_details": {
                "reasoning_tokens": 0,
                "tool_output_tokens": 0,
                "output_tokens_per_turn": [],
                "tool_output_tokens_per_turn": [],
            },
            "total_tokens": script.prompt_len + script.length,
        }
        return self._response(
            "incomplete" if cut else "completed",
            {"reason": "max_output_tokens"} if cut else None,
            output,
            usage,
        )

    def _response(
        self, status: str, incomplete: dict[str, Any] | None, output: list[Any], usage: Any
    ) -> dict[str, Any]:
        heading, asked = self._question.heading, dict(self._asked)
        asked["max_output_tokens"] = self._question.limit
        # What the request said is in its place already, with room for what is known by now.
        asked |= {"status": status, "usage": usage, "output": output, "model": heading.model}
        return {
            "id": heading.request_id,
            "created_at": heading.created,
            "incomplete_details": incomplete,
            **asked,
        }


def _call_item(
    call_id: str, name: str, arguments: str, *, status: str = "completed"
) -> dict[str, Any]:
    return {
        "arguments": arguments,
        "call_id": call_id,
        "name": name,
        "type": "function_call",
        "id": new_id("fc"),
        "async": None,
        "caller": None,
        "namespace": None,
        "status": status,
    }


def _logprob(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """These facts of a token, and of those that it was chosen from."""
    told = {name: entry[name] for name in names}
    if "top_logprobs" in entry:
        told["top_logprobs"] = [_logprob(one, *names) for one in entry["top_logprobs"]]
    return told
