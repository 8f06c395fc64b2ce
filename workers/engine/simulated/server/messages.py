"""`/v1/messages` as vLLM 0.32 serves it: Anthropic's envelope around a chat.

Errors that are found after the body has been read have Anthropic's form, and those of the body
itself have vLLM's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, Field

from rhizome.render.messages import chat_of_messages
from rhizome.render.outcomes import CannotRender
from workers.engine.simulated.server.answers import Question, created_tokens, quoted
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
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.refusals import MALFORMED, Refusal

_encode = msgspec.json.Encoder().encode
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class _Message(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _ToolChoice(BaseModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None


class _Asked(BaseModel):
    """What is asked for, in Anthropic's fields."""

    model: str = Field(min_length=1)
    messages: list[_Message]
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: _ToolChoice | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)


class _AskedAnswer(_Asked):
    max_tokens: int = Field(gt=0)


class MessageBody(ChatBody):
    """A request for a message, as the chat that it is."""


def read_message(raw: bytes) -> tuple[MessageBody, dict[str, Any]]:
    """The body and the chat that renders to its prompt; raises `Refusal`."""
    fields = read_object(raw)
    check_salt(fields)
    asked = validated(_AskedAnswer, fields)
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
    body = validated(MessageBody, shared)
    check_messages(body.messages)
    if chat.get("tools"):
        check_tool_choice(_choice(asked.tool_choice))
    return body, chat


def read_count(raw: bytes) -> tuple[str, dict[str, Any]]:
    """The model and the chat whose tokens are to be counted."""
    fields = read_object(raw)
    return validated(_Asked, fields).model, _chat(fields)


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
        reason, sequence = _stop_of(choice)
        fields: dict[str, Any] = {
            "id": heading.request_id,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": quoted(script.text(0, end))}],
            "model": heading.model,
            "stop_reason": reason,
        }
        if sequence is not None:
            fields["stop_sequence"] = sequence
        fields["usage"] = _usage(self._question, choice)
        self._question.exchange.reply(200, _encode(fields))


class MessageStream:
    """A message as Anthropic's events, with one block of text."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._begun = False

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        script = choice.script
        if not self._begun:
            self._begun = True
            self._begin(choice)
        delta = {"type": "text_delta", "text": quoted(script.text(first, end))}
        self._send({"type": "content_block_delta", "delta": delta, "index": 0})
        if end < script.length:
            return
        self._send({"type": "content_block_stop", "index": 0})
        reason, sequence = _stop_of(choice)
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
        block = {"type": "text", "text": ""}
        self._send({"type": "content_block_start", "content_block": block, "index": 0})

    def _send(self, fields: Mapping[str, Any]) -> None:
        kind, data = str(fields["type"]).encode(), _encode(fields)
        self._question.exchange.send(b"event: %b\ndata: %b\n\n" % (kind, data))


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


def _stop_of(choice: Choice) -> tuple[str, str | None]:
    """Why it ended, and the stop sequence that did it."""
    script = choice.script
    if isinstance(script.stop_reason, str):
        return "stop_sequence", script.stop_reason
    return ("max_tokens" if script.finish_reason == "length" else "end_turn"), None


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
