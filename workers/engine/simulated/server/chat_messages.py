"""A chat's messages as the types of vLLM 0.32 and OpenAI read them.

A message that fits no type is a fault of the body. Parts and calls of one that fits are looked at
later, when the prompt is made, and their faults are told in other forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticKnownError

from workers.engine.simulated.server.refusals import (
    Refusal,
    fault_at,
    faults_of,
    malformed,
    out_of_range,
)

_CALL = "ChatCompletionMessageFunctionToolCallParam"
_PARTS = (
    *("audio_embeds", "audio_url", "image_embeds", "image_pil", "image_url", "input_audio"),
    *("input_image", "input_text", "output_text", "prompt_embeds", "refusal", "text", "thinking"),
    *("tool_reference", "video_embeds", "video_url"),
)
_WITHOUT_CONTENT = ("assistant", "function")
"""Roles whose content may be null."""


class _Function(BaseModel):
    arguments: str
    name: str


class _Call(BaseModel):
    id: str
    function: _Function
    type: Literal["function"]


def fitting(message: dict[str, Any]) -> dict[str, Any]:
    """The message, if it fits a type."""
    role, content = message.get("role"), message.get("content", "")
    if not isinstance(role, str):
        raise PydanticKnownError("missing")
    if not isinstance(content, str | list | dict | None):
        raise PydanticKnownError("string_type")
    if content is None and role not in _WITHOUT_CONTENT:
        raise PydanticKnownError("string_type")
    named = (message.get("name", ""), message.get("tool_call_id") or "")
    if not all(isinstance(one, str) for one in named):
        raise PydanticKnownError("literal_error", {"expected": "'developer'"})
    return message


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raises `Refusal` for what no prompt can be made of."""
    if not messages:
        raise Refusal(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    for message in messages:
        content = message.get("content")
        if isinstance(content, dict | list):
            _check_parts(content)
        if message.get("role") == "assistant":
            _check_calls(message.get("tool_calls"))


def _check_parts(parts: Mapping[str, Any] | Sequence[Any]) -> None:
    if parts and all(isinstance(part, str) for part in parts):
        raise Refusal(
            "1 validation error for ValidatorIterator\n0.ChatCompletionContentPartTextParam\n"
            "  Input should be a valid dictionary [type=dict_type]"
        )
    for part in parts:
        if not isinstance(part, dict):
            continue
        if part.get("type") == "file" and isinstance(part.get("file"), dict):
            words = f"Unsupported chat content part type: 'file'. Supported types: {_LISTED}."
            raise out_of_range(words, "type", "file")


def _check_calls(calls: Any) -> None:
    for at, call in enumerate(calls if isinstance(calls, list | str) else ()):
        if not isinstance(call, dict):
            words = "Input should be a valid dictionary"
            raise malformed([fault_at("dict_type", ("body", at, _CALL), words, call)])
        if call.get("type") == "custom":
            continue
        try:
            _Call.model_validate(call)
        except ValidationError as error:
            faults = faults_of(error)
            # What is within a function is not told apart.
            raise malformed(
                [one | {"loc": ("body", at, _CALL, *one["loc"][1:2])} for one in faults]
            ) from error


_LISTED = ", ".join(_PARTS)
