"""Requests for messages as vLLM 0.32 reads them, and the chat that each is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rhizome.render.messages import chat_of_messages
from rhizome.render.outcomes import CannotRender
from workers.engine.simulated.server.bodies import (
    STOP_STRINGS_MAX,
    ChatBody,
    CheckModel,
    read_object,
    validated,
)
from workers.engine.simulated.server.chat_messages import check_messages
from workers.engine.simulated.server.checks import (
    check_salt,
    check_tool_choice,
)
from workers.engine.simulated.server.fields import MESSAGE_ORDER
from workers.engine.simulated.server.refusals import Refusal, unrendered

_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_BUDGET_MIN = 1024


class _Block(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal[
        "text",
        "image",
        "tool_use",
        "tool_result",
        "tool_reference",
        "thinking",
        "redacted_thinking",
        "tool_addition",
        "tool_removal",
    ]
    source: dict[str, Any] | None = None


class _Thinking(BaseModel):
    type: Literal["enabled"]
    budget_tokens: int = Field(ge=_BUDGET_MIN)


class _NoThinking(BaseModel):
    type: Literal["disabled", "adaptive"]


class _JsonFormat(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class _OutputConfig(BaseModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _JsonFormat | None = None


class _Message(BaseModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[_Block]


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
    system: str | list[_Block] | None = None
    output_config: _OutputConfig | None = None
    thinking: Annotated[_Thinking | _NoThinking, Field(discriminator="type")] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None


class _AskedAnswer(_Asked):
    """What is asked for."""

    max_tokens: int = Field(gt=0)
    metadata: dict[str, Any] | None = None
    stop_sequences: Annotated[list[str], Field(max_length=STOP_STRINGS_MAX)] | None = None
    stream: bool | None = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)
    mm_payload: Literal["tensors", "none"] = "tensors"
    watermarking: bool | None = None
    vllm_xargs: dict[str, Any] | None = None
    kv_transfer_params: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_budget(self) -> _AskedAnswer:
        if isinstance(self.thinking, _Thinking) and self.thinking.budget_tokens >= self.max_tokens:
            raise ValueError("thinking.budget_tokens must be less than max_tokens")
        return self


class MessageBody(ChatBody):
    """A request for a message, as the chat that it is."""

    @property
    def limit_name(self) -> str:
        return "max_completion_tokens"


def read_message(
    raw: bytes, check_model: CheckModel, tool_parser: bool = False
) -> tuple[MessageBody, dict[str, Any]]:
    """The body and the chat that renders to its prompt; raises `Refusal`."""
    fields = read_object(raw)
    asked = validated(_AskedAnswer, fields, MESSAGE_ORDER)
    check_salt(fields)
    check_model(asked.model)
    if (asked.tools or asked.tool_choice) and not tool_parser:
        check_tool_choice(_choice(asked.tool_choice))
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
        "watermarking": asked.watermarking,
        "vllm_xargs": asked.vllm_xargs,
        "kv_transfer_params": asked.kv_transfer_params,
    }
    wanted = asked.output_config and asked.output_config.format
    if wanted:
        schema = {"name": "output", "schema": wanted.schema_}
        shared["response_format"] = {"type": "json_schema", "json_schema": schema}
    if chat.get("tools"):
        shared |= {"tools": chat["tools"], "tool_choice": _choice(asked.tool_choice)}
    body = validated(MessageBody, shared)
    check_messages(body.messages)
    _check_named(asked)
    return body, chat


def read_count(raw: bytes, check_model: CheckModel, tool_parser: bool = False) -> dict[str, Any]:
    """The chat whose tokens are to be counted."""
    fields = read_object(raw)
    asked = validated(_Asked, fields, MESSAGE_ORDER)
    check_model(asked.model)
    if (asked.tools or asked.tool_choice) and not tool_parser:
        check_tool_choice(_choice(asked.tool_choice))
    chat = _chat(fields)
    check_messages(chat["messages"])
    return chat


def _check_named(asked: _Asked) -> None:
    """Whether there is the tool that has to be called."""
    choice, names = asked.tool_choice, [tool.name for tool in asked.tools or ()]
    if choice is not None and choice.type == "tool" and choice.name not in names:
        raise Refusal(f"The tool with name '{choice.name}' is not found in the tools list.")


def _chat(fields: Mapping[str, Any]) -> dict[str, Any]:
    messages = [
        message | {"content": [_called(block) for block in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in fields["messages"]
    ]
    try:
        return chat_of_messages({**fields, "messages": messages})
    except CannotRender as error:
        raise unrendered(error) from error


def _choice(choice: _ToolChoice | None) -> str | dict[str, Any]:
    if choice is None:
        return "auto"
    named = {"type": "function", "function": {"name": choice.name}}
    return _TOOL_CHOICES.get(choice.type, named)


def _called(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """A block; a call without an id gets one."""
    unnamed = block.get("type") == "tool_use" and not isinstance(block.get("id"), str)
    return {**block, "id": "call_0"} if unnamed else block
