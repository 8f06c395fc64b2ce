"""A request's messages and tools as vLLM 0.32 hands them to the chat template.

What is followed here: content as text or parts, reasoning, tool calls with their arguments
parsed, developer messages, and the order in which vLLM's typed reading puts the fields, which
shows wherever a template dumps an object as JSON. What vLLM refuses or only the engine can turn
into tokens raises `CannotRender`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rhizome.render.content_format import ContentFormat
from rhizome.render.outcomes import CannotRender, Why

Message = dict[str, Any]

_BILLING_HEADER = "x-anthropic-billing-header"
"""A line that changes with every request of one client; vLLM drops it from system prompts."""
_PLAIN_ROLES = frozenset({"system", "user", "assistant"})
"""Whose messages of a role and a text have nothing else that a template gets."""
_TEXT_FIELDS = {"text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Types of text parts, and the field that holds each one's text."""
_MEDIA = frozenset(
    [
        "audio_embeds",
        "audio_url",
        "file",
        "image",
        "image_embeds",
        "image_pil",
        "image_url",
        "input_audio",
        "input_image",
        "prompt_embeds",
        "video",
        "video_embeds",
        "video_url",
    ]
)
_KNOWN_PART_FIELDS = _MEDIA | frozenset(
    [
        "closed",
        "data",
        "name",
        "prompt_cache_breakpoint",
        "refusal",
        "text",
        "thinking",
        "type",
        "uuid",
    ]
)
"""Fields of a part that vLLM does not pass on to the template."""


class Call(dict[str, Any]):
    """A function's name and arguments in the engine's own order, not in that of a typed reading."""


def conversation_of(messages: Sequence[Any], content_format: ContentFormat) -> list[Message]:
    """The messages as the template gets them; the given ones are not changed."""
    return [
        _plain(message, content_format) or _message(message, content_format) for message in messages
    ]


def tools_of(tools: Any) -> list[dict[str, Any]] | None:
    """The request's tools with the fields that vLLM keeps, in its order."""
    if tools is None:
        return None
    if not isinstance(tools, list) or not tools:
        raise CannotRender(Why.SHAPE, "tools")
    return [_tool(tool) for tool in tools]


def has_media(messages: Iterable[Any]) -> bool:
    """Whether some message has a part that is not text."""
    for message in messages:
        if isinstance(message, dict):
            content = message.get("content")
            if isinstance(content, list) and any(map(_is_media, content)):
                return True
    return False


def without_developer(conversation: list[Message]) -> list[Message]:
    """For templates that know no developer: such messages become, or join, the system's."""
    if all(message["role"] != "developer" for message in conversation):
        return conversation
    converted = [
        {**{key: value for key, value in message.items() if key != "tools"}, "role": "system"}
        if message["role"] == "developer"
        else message
        for message in conversation
    ]
    places = [index for index, message in enumerate(converted) if message["role"] == "system"]
    if places == [0]:
        return converted
    texts = [_joined(converted[index].get("content", "")) for index in places]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in converted if message["role"] != "system")]


def _plain(message: Any, content_format: ContentFormat) -> Message | None:
    """What `_message` makes of a role and a text, which most messages are; None for all others."""
    if type(message) is not dict or len(message) != 2:
        return None
    role, content = message.get("role"), message.get("content")
    if not (isinstance(role, str) and isinstance(content, str) and role in _PLAIN_ROLES):
        return None
    if role == "system" and content.startswith(_BILLING_HEADER):
        return None
    if content_format == "string":
        return {"role": role, "content": content}
    return {"role": role, "content": [{"type": "text", "text": content}]}


def _message(message: Any, content_format: ContentFormat) -> Message:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise CannotRender(Why.SHAPE, "a message has no role")
    role = message["role"]
    parts = _parts(message.get("content"), role)
    result: Message = {"role": role}
    if content_format == "openai":
        result["content"] = [_wrapped(part) for part in parts]
    else:
        result["content"] = "\n".join(text for part in parts if (text := _text(part)))
    if role == "assistant":
        _add_assistant_fields(result, message)
    elif role == "tool":
        _add_tool_fields(result, message)
    for name in ("name", "task"):
        if isinstance(message.get(name), str):
            result[name] = message[name]
    if role == "developer":
        result["tools"] = _developer_tools(message)
    return result


def _parts(content: Any, role: str) -> list[Any]:
    if content is None:
        return []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise CannotRender(Why.SHAPE, "content is neither text nor a list")
    return _without_billing_header(content) if role == "system" else content


def _without_billing_header(parts: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for part in parts:
        is_text = isinstance(part, Mapping) and part.get("type") == "text"
        text = part.get("text") if is_text else part
        if not (isinstance(text, str) and text.startswith(_BILLING_HEADER)):
            kept.append(part)
        elif rest := text.partition("\n")[2]:
            kept.append({**part, "text": rest} if is_text else rest)
    return kept


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise CannotRender(Why.SHAPE, "a part is neither text nor an object")
    if _is_media(part):
        raise CannotRender(Why.MEDIA)
    kind = part.get("type")
    text = part.get(_TEXT_FIELDS.get(kind, "")) if isinstance(kind, str) else None
    if not isinstance(text, str) or "uuid" in part:
        raise CannotRender(Why.SHAPE, "a part of an unknown type")
    return text


def _wrapped(part: Any) -> dict[str, Any]:
    wrapped = {"type": "text", "text": _text(part)}
    if isinstance(part, Mapping):
        wrapped |= {key: value for key, value in part.items() if key not in _KNOWN_PART_FIELDS}
    return wrapped


def _is_media(part: Any) -> bool:
    if not isinstance(part, Mapping):
        return False
    kind = part.get("type")
    return (isinstance(kind, str) and kind in _MEDIA) or not _MEDIA.isdisjoint(part)


def _joined(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content if isinstance(content, str) else ""


def _add_assistant_fields(result: Message, message: Mapping[str, Any]) -> None:
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise CannotRender(Why.SHAPE, "tool_calls")
    if calls:
        result["tool_calls"] = [_tool_call(call) for call in calls]
    reasoning = message.get("reasoning")
    if reasoning is None:
        reasoning = message.get("reasoning_content")
    if reasoning is not None:
        result["reasoning"] = reasoning
        result["reasoning_content"] = reasoning


def _add_tool_fields(result: Message, message: Mapping[str, Any]) -> None:
    if "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    result["content"] = _joined(result["content"])


def _tool_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if (
        not isinstance(function, Mapping)
        or call.get("type") != "function"
        or not isinstance(call.get("id"), str)
        or not isinstance(function.get("name"), str)
        or not isinstance(function.get("arguments"), str)
    ):
        raise CannotRender(Why.SHAPE, "a tool call")
    is_own = isinstance(function, Call)
    called = dict(function) if is_own else _ordered(function, ("arguments", "name"))
    called["arguments"] = _arguments(function["arguments"])
    return {**_ordered(call, ("id", "function", "type")), "function": called}


def _arguments(text: str) -> dict[str, Any]:
    """The arguments as an object; an empty one for anything else, as in vLLM."""
    try:
        parsed = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return {}
    except RecursionError as error:
        raise CannotRender(Why.SHAPE, "arguments are nested too deep") from error
    return parsed if isinstance(parsed, dict) else {}


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise CannotRender(Why.SHAPE, "a tool")
    deferred = tool.get("defer_loading")
    described: dict[str, Any] = {
        "name": function.get("name"),
        "description": function.get("description"),
        "parameters": function.get("parameters"),
    }
    if not _is_described(described):
        raise CannotRender(Why.SHAPE, "a tool's function")
    optional = {"strict": function.get("strict"), "defer_loading": function.get("defer_loading")}
    if optional["defer_loading"] is None:
        optional["defer_loading"] = deferred
    for key, value in optional.items():
        if value is not None:
            described[key] = _flag(value)
    result: dict[str, Any] = {"type": "function", "function": described}
    if deferred is not None:
        result["defer_loading"] = _flag(deferred)
    return result


def _is_described(function: Mapping[str, Any]) -> bool:
    return (
        isinstance(function["name"], str)
        and isinstance(function["description"], str | None)
        and isinstance(function["parameters"], dict | None)
    )


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CannotRender(Why.SHAPE, "a tool's flag")
    return value


def _developer_tools(message: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    tools = message.get("tools")
    if not isinstance(tools, list | None) or message.get("tool_calls") is not None:
        raise CannotRender(Why.SHAPE, "a developer's tools")
    return tools and [_developer_tool(tool) for tool in tools]


def _developer_tool(tool: Any) -> dict[str, Any]:
    """The tool in the order of its fields; one that does not fit would keep its own order."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if (
        not isinstance(function, Mapping)
        or tool.get("type") != "function"
        or not isinstance(function.get("name"), str)
        or not isinstance(function.get("description", ""), str)
        or not isinstance(function.get("parameters", {}), dict)
        or not isinstance(function.get("strict"), bool | None)
    ):
        raise CannotRender(Why.SHAPE, "a developer's tool")
    described = _ordered(function, ("name", "description", "parameters", "strict"))
    return {**_ordered(tool, ("function", "type")), "function": described}


def _ordered(fields: Mapping[str, Any], first: Sequence[str]) -> dict[str, Any]:
    """The same fields, those named in `first` before all others."""
    ordered = {name: fields[name] for name in first if name in fields}
    return ordered | {name: value for name, value in fields.items() if name not in ordered}
