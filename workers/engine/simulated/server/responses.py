"""`/v1/responses` as vLLM 0.32 serves it without a store: one answer, or typed events.

A response is a chat with another envelope: its prompt is that of `rhizome.render.responses`, and
its one output item is an assistant's message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import Field

from rhizome.ids import new_id
from rhizome.render.outcomes import CannotRender
from rhizome.render.responses import chat_of_response
from workers.engine.simulated.server.answers import Question, created_tokens, quoted
from workers.engine.simulated.server.bodies import (
    ChatBody,
    GenerationBody,
    read_object,
    validated,
)
from workers.engine.simulated.server.checks import check_salt
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.refusals import Refusal

_encode = msgspec.json.Encoder().encode
_NO_STORE = (
    "This vLLM engine does not support `store=True` and therefore does not support the background"
    " mode. To enable these features, set the environment variable"
    " `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server."
)
_TOOL_FIELDS = (
    *("name", "parameters", "strict", "type", "allowed_callers", "async", "defer_loading"),
    *("description", "output_schema"),
)


class _Asked(GenerationBody):
    """What is asked for, in the fields of responses."""

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    background: bool | None = False
    store: bool | None = True
    metadata: dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    text: dict[str, Any] | None = None
    tool_choice: str | dict[str, Any] = "auto"
    tools: list[dict[str, Any]] = Field(default_factory=list)
    top_logprobs: int | None = 0
    truncation: str | None = "disabled"
    reasoning: dict[str, Any] | None = None
    user: str | None = None


class ResponseBody(ChatBody):
    """A request for a response, as the chat that it is."""

    asked: dict[str, Any]
    """What the response repeats."""


def read_response(raw: bytes) -> tuple[ResponseBody, dict[str, Any]]:
    """The body and the chat that renders to its prompt; raises `Refusal`."""
    fields = read_object(raw)
    check_salt(fields)
    asked = validated(_Asked, fields)
    if asked.background:
        raise Refusal(_NO_STORE, param="background", kind="invalid_request_error")
    if asked.previous_response_id is not None:
        raise unknown_response(asked.previous_response_id)
    try:
        chat = chat_of_response(fields)
    except CannotRender as error:
        raise Refusal(f"The prompt cannot be rendered: {error}") from error
    shared = {name: value for name, value in fields.items() if name in GenerationBody.model_fields}
    body = validated(
        ResponseBody,
        shared
        | {
            "messages": chat["messages"],
            "max_tokens": asked.max_output_tokens,
            "asked": {},
            "response_format": _format(asked),
        },
    )
    body.asked = _repeated(asked)
    return body, chat


def _format(asked: _Asked) -> dict[str, Any] | None:
    """The format that is asked for, as chats ask for it."""
    wanted = (asked.text or {}).get("format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": wanted}
    return wanted


def unknown_response(response_id: str) -> Refusal:
    """Nothing is stored, so nothing is found."""
    return Refusal(
        f"Response with id '{response_id}' not found.",
        param="response_id",
        status=404,
        kind="invalid_request_error",
    )


class WholeResponse:
    """A response in one piece."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._envelope = _Envelope(question)

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        if end == choice.script.length:
            self._question.exchange.reply(200, _encode(self._envelope.ended(choice)))


class ResponseStream:
    """A response as typed events, each with its number."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._envelope = _Envelope(question)
        self._number = 0

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        item_id, script = self._envelope.item_id, choice.script
        place = {"content_index": 0, "item_id": item_id, "output_index": 0}
        if not self._number:
            begun = self._envelope.begun()
            self._send("response.created", {"response": begun})
            self._send("response.in_progress", {"response": begun})
            item = self._envelope.item("in_progress", [])
            self._send("response.output_item.added", {"item": item, "output_index": 0})
            part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            self._send("response.content_part.added", place | {"part": part})
        delta = quoted(script.text(first, end))
        self._send("response.output_text.delta", place | {"delta": delta, "logprobs": []})
        if end < script.length:
            return
        text = quoted(script.text(0, end))
        part = self._envelope.part(text)
        self._send("response.output_text.done", place | {"text": text, "logprobs": []})
        self._send("response.content_part.done", place | {"part": part})
        item = self._envelope.item("completed", [part])
        self._send("response.output_item.done", {"item": item, "output_index": 0})
        self._send("response.completed", {"response": self._envelope.ended(choice)})
        self._question.exchange.end(b"")

    def _send(self, kind: str, fields: Mapping[str, Any]) -> None:
        data = _encode(dict(sorted([*fields.items(), ("sequence_number", self._number)])))
        data = data[:-1] + b',"type":"%b"}' % kind.encode()
        self._number += 1
        self._question.exchange.send(b"event: %b\ndata: %b\n\n" % (kind.encode(), data))


class _Envelope:
    """The response object around what is said."""

    def __init__(self, question: Question) -> None:
        body = question.body
        assert isinstance(body, ResponseBody)
        self._question = question
        self._asked = body.asked
        self.item_id = new_id("msg")

    def part(self, text: msgspec.Raw) -> dict[str, Any]:
        return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}

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

    def ended(self, choice: Choice) -> dict[str, Any]:
        script = choice.script
        cut = script.finish_reason == "length"
        part = self.part(quoted(script.text(0, script.length)))
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
            [self.item("completed", [part])],
            usage,
        )

    def _response(
        self, status: str, incomplete: dict[str, Any] | None, output: list[Any], usage: Any
    ) -> dict[str, Any]:
        heading, asked = self._question.heading, dict(self._asked)
        if asked["max_output_tokens"] is None:
            asked["max_output_tokens"] = self._question.limit
        # What the request said is in its place already, with room for what is known by now.
        asked |= {"status": status, "usage": usage, "output": output, "model": heading.model}
        return {
            "id": heading.request_id,
            "created_at": heading.created,
            "incomplete_details": incomplete,
            **asked,
        }


def _repeated(asked: _Asked) -> dict[str, Any]:
    tools = [{name: tool.get(name) for name in _TOOL_FIELDS} for tool in asked.tools]
    return {
        "instructions": asked.instructions,
        "metadata": asked.metadata,
        "model": None,
        "object": "response",
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls,
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "tool_choice": asked.tool_choice if tools else "none",
        "tools": tools,
        "top_p": 1.0 if asked.top_p is None or asked.temperature == 0 else asked.top_p,
        "background": False,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": asked.reasoning,
        "service_tier": "auto",
        "status": "",
        "text": asked.text,
        "top_logprobs": asked.top_logprobs or None,
        "truncation": asked.truncation,
        "usage": None,
        "user": asked.user,
        "presence_penalty": asked.presence_penalty or 0.0,
        "frequency_penalty": asked.frequency_penalty or 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }
