"""`/v1/messages` as vLLM 0.32 serves it: Anthropic's envelope around a chat.

Errors that are found after the body has been read have Anthropic's form, and those of the body
itself have vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field, model_validator

from rhizome.render.messages import chat_of_messages
from rhizome.render.outcomes import CannotRender
from workers.engine.simulated.server.answers import (
    Question,
    created_tokens,
    escaped,
    plain,
    quoted,
)
from workers.engine.simulated.server.bodies import (
    ChatBody,
    read_object,
    validated,
)
from workers.engine.simulated.server.checks import (
    check_messages,
    check_salt,
    check_tool_choice,
)
from workers.engine.simulated.server.fields import MESSAGE_ORDER
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.refusals import MALFORMED, Refusal
from workers.engine.simulated.server.tool_calls import CallReader, whole_call

_encode = msgspec.json.Encoder().encode
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class _Message(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _ToolChoice(BaseModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None

    @model_validator(mode="after")
    def _check(self) -> _ToolChoice:
        if self.type == "tool" and not self.name:
            raise ValueError("tool_choice.name is required when type is 'tool'")
        return self


class _Tool(BaseModel):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None


class _Asked(BaseModel):
    """What tokens are to be counted of, in Anthropic's fields."""

    model: str = Field(min_length=1)
    messages: list[_Message]
    system: str | list[dict[str, Any]] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None


class _AskedAnswer(_Asked):
    """What is asked for."""

    max_tokens: int = Field(gt=0)
    metadata: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)


class MessageBody(ChatBody):
    """A request for a message, as the chat that it is."""


def read_message(raw: bytes, tool_parser: bool = False) -> tuple[MessageBody, dict[str, Any]]:
    """The body and the chat that renders to its prompt; raises `Refusal`."""
    fields = read_object(raw)
    asked = validated(_AskedAnswer, fields, MESSAGE_ORDER)
    check_salt(fields)
    chat = _chat(fields)
    shared = {
        "model": asked.model,
        "messages": chat["messages"],
        "max_tokens": asked.max_tokens,
        "stream": asked.stream,
        "stop": asked.stop_sequences,
        "temperature": asked.temperature,
        "top_k": asked.top_k,
        "top_p": asked.top_p,
        "cache_salt": asked.cache_salt,
    }
    if chat.get("tools"):
        shared |= {"tools": chat["tools"], "tool_choice": _choice(asked.tool_choice)}
    body = validated(MessageBody, shared)
    check_messages(body.messages)
    if body.tools and not tool_parser:
        check_tool_choice(body.tool_choice)
    _check_named(asked)
    return body, chat


def read_count(raw: bytes, tool_parser: bool = False) -> tuple[str, dict[str, Any]]:
    """The model and the chat whose tokens are to be counted."""
    fields = read_object(raw)
    asked = validated(_Asked, fields, MESSAGE_ORDER)
    if (asked.tools or asked.tool_choice) and not tool_parser:
        check_tool_choice(_choice(asked.tool_choice))
    chat = _chat(fields)
    check_messages(chat["messages"])
    return asked.model, chat


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


def _must_call(question: Question) -> bool:
    assert isinstance(question.body, MessageBody)
    return question.body.must_call


def _use(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as a block of a message."""
    function = call["function"]
    arguments = msgspec.Raw(function["arguments"].encode())
    return {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _check_named(asked: _Asked) -> None:
    """Whether there is the tool that has to be called."""
    choice, names = asked.tool_choice, [tool.name for tool in asked.tools or ()]
    if choice is not None and choice.type == "tool" and choice.name not in names:
        raise Refusal(f"The tool with name '{choice.name}' is not found in the tools list.")


def _chat(fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return chat_of_messages(fields)
    except CannotRender as error:
        raise Refusal(f"The prompt cannot be rendered: {error}") from error


def _choice(choice: _ToolChoice | None) -> str | dict[str, Any]:
    if choice is None:
        return "auto"
    named = {"type": "function", "function": {"name": choice.name}}
    return _TOOL_CHOICES.get(choice.type, named)


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
