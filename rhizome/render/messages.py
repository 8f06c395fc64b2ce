"""Anthropic's messages as the chat that vLLM 0.32 makes of them before it renders.

Followed is what reaches the prompt: system text, content blocks, tools and thinking. Where vLLM
looks at the template first (system messages inside the conversation, tools that are added or
removed on the way) `CannotRender` is raised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rhizome.render.outcomes import CannotRender, Why

_BILLING_HEADER = "x-anthropic-billing-header"
"""A line that changes with every request of one client; vLLM drops blocks that begin with it."""
Chat = dict[str, Any]


def chat_of_messages(body: Mapping[str, Any]) -> Chat:
    """The fields of a chat completion that has the same prompt; raises `CannotRender`."""
    messages: list[Chat] = []
    system = _system(body.get("system"))
    if system:
        messages.append({"role": "system", "content": system})
    for message in _list(body.get("messages")):
        messages += _message(message)
    chat: Chat = {"messages": messages}
    tools = body.get("tools")
    if tools is not None:
        chat["tools"] = [_tool(tool) for tool in _list(tools)]
    effort = _effort(body)
    if effort is not None:
        chat["reasoning_effort"] = effort
    if body.get("chat_template_kwargs") is not None:
        chat["chat_template_kwargs"] = body["chat_template_kwargs"]
    return chat


def _system(system: Any) -> str:
    if system is None or isinstance(system, str):
        return system or ""
    texts = (_text(block) for block in _list(system) if block.get("type") == "text")
    return "".join(text for text in texts if not text.startswith(_BILLING_HEADER))


def _message(message: Any) -> list[Chat]:
    """One message, and the tool results in front of it that a user's message holds."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        raise CannotRender(Why.SHAPE, "a system message inside the conversation")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results: list[Chat] = []
    parts: list[Chat] = []
    calls: list[Chat] = []
    thoughts: list[str] = []
    for block in _list(content):
        kind = block.get("type")
        if kind == "text":
            parts += [{"type": "text", "text": text}] if (text := _text(block)) else []
        elif kind == "tool_use":
            calls.append(_call(block))
        elif kind == "tool_result" and role == "user":
            results.append(_result(block))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            thoughts.append(block["thinking"])
        elif kind == "image":
            raise CannotRender(Why.MEDIA)
        elif kind != "redacted_thinking":
            raise CannotRender(Why.SHAPE, "a block of an unknown type")
    said = _said(role, parts, calls, thoughts)
    return results if role == "user" and "content" not in said else [*results, said]


def _said(role: str, parts: list[Chat], calls: list[Chat], thoughts: list[str]) -> Chat:
    said: Chat = {"role": role}
    if thoughts:
        said["reasoning"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    if parts:
        said["content"] = parts[0]["text"] if len(parts) == 1 else parts
    return said


def _call(block: Mapping[str, Any]) -> Chat:
    if not isinstance(block.get("id"), str):
        raise CannotRender(Why.SHAPE, "a tool call without an id gets one from the engine")
    function = {"name": block.get("name") or "", "arguments": json.dumps(block.get("input") or {})}
    return {"id": block["id"], "type": "function", "function": function}


def _result(block: Mapping[str, Any]) -> Chat:
    content = block.get("content")
    if isinstance(content, list):
        if any(not isinstance(item, Mapping) or item.get("type") != "text" for item in content):
            raise CannotRender(Why.MEDIA, "a tool result that is not text")
        content = "\n".join(_text(item) for item in content)
    elif not isinstance(content, str | None):
        raise CannotRender(Why.SHAPE, "a tool result")
    return {
        "role": "tool",
        "tool_call_id": block.get("tool_use_id") or "",
        "content": content or "",
    }


def _tool(tool: Mapping[str, Any]) -> Chat:
    schema = tool.get("input_schema")
    if not isinstance(schema, Mapping):
        raise CannotRender(Why.SHAPE, "a tool without 'input_schema'")
    function: Chat = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": dict(schema) if "type" in schema else {**schema, "type": "object"},
    }
    for name in ("strict", "defer_loading"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _effort(body: Mapping[str, Any]) -> str | None:
    """What the template is told of reasoning. Thinking that is off counts as no effort at all."""
    thinking, output = body.get("thinking"), body.get("output_config")
    if isinstance(thinking, Mapping) and thinking.get("type") == "disabled":
        return "none"
    effort = output.get("effort") if isinstance(output, Mapping) else None
    return effort if isinstance(effort, str) else None


def _list(value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise CannotRender(Why.SHAPE, "not a list of objects")
    return value


def _text(block: Mapping[str, Any]) -> str:
    text = block.get("text")
    if not isinstance(text, str | None):
        raise CannotRender(Why.SHAPE, "text")
    return text or ""
