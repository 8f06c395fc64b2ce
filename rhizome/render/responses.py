"""A request for a response as the chat that vLLM 0.32 makes of it before it renders.

Items of one turn that belong together (reasoning, text, tool calls) become one message, as in
vLLM. Models that vLLM renders with code of its own are not meant here; the renderer knows them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rhizome.render.conversation import Call
from rhizome.render.outcomes import CannotRender, Why

Chat = dict[str, Any]


def chat_of_response(body: Mapping[str, Any]) -> Chat:
    """The fields of a chat completion that has the same prompt; raises `CannotRender`."""
    if body.get("truncation") not in (None, "disabled"):
        raise CannotRender(Why.SHAPE, "truncation")
    if body.get("previous_input_messages") is not None:
        raise CannotRender(Why.OTHER_FORMAT)
    messages: list[Chat] = []
    if body.get("instructions"):
        messages.append({"role": "system", "content": body["instructions"]})
    asked = body.get("input")
    if isinstance(asked, str):
        messages.append({"role": "user", "content": asked})
    elif isinstance(asked, list):
        messages += conversation_of_items(asked)
    else:
        raise CannotRender(Why.SHAPE, "input")
    chat: Chat = {"messages": messages}
    tools = _tools(body.get("tools"))
    if tools:
        chat["tools"] = tools
    if body.get("chat_template_kwargs") is not None:
        chat["chat_template_kwargs"] = body["chat_template_kwargs"]
    reasoning = body.get("reasoning")
    if isinstance(reasoning, Mapping) and reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    if _continues(asked):
        chat |= {"continue_final_message": True, "add_generation_prompt": False}
    return chat


def conversation_of_items(items: list[Any]) -> list[Chat]:
    """The chat messages of response items; raises `CannotRender`."""
    messages: list[Chat] = []
    for item in items:
        if not isinstance(item, Mapping):
            raise CannotRender(Why.SHAPE, "an item that is no object")
        kind = item.get("type") or "message"
        convert = _ITEMS.get(kind)
        if convert is None:
            raise CannotRender(Why.SHAPE, f"an item of type {kind!r}")
        convert(item, messages)
    return messages


def _add_message(item: Mapping[str, Any], messages: list[Chat]) -> None:
    role, content = item.get("role"), item.get("content")
    if role != "assistant":
        if isinstance(content, list):
            content = [_part(part) for part in content]
        messages.append({"role": role, "content": content})
        return
    if isinstance(content, list):
        content = content[0].get("text") if content and isinstance(content[0], Mapping) else None
    if not isinstance(content, str):
        raise CannotRender(Why.SHAPE, "an assistant's message without text")
    _add_to_assistant(messages, "content", content)


def _add_reasoning(item: Mapping[str, Any], messages: list[Chat]) -> None:
    if item.get("encrypted_content"):
        raise CannotRender(Why.OTHER_FORMAT)
    said = item.get("content") or item.get("summary") or []
    text = said[0].get("text") if said and isinstance(said[0], Mapping) else ""
    if not isinstance(text, str):
        raise CannotRender(Why.SHAPE, "reasoning")
    _add_to_assistant(messages, "reasoning", text)


def _add_call(item: Mapping[str, Any], messages: list[Chat]) -> None:
    name = item.get("name")
    if item.get("namespace"):
        name = f"{item['namespace']}__{name}"
    arguments = item.get("arguments")
    if item.get("type") == "custom_tool_call":
        arguments = json.dumps({"input": item.get("input") or ""}, ensure_ascii=False)
    function = Call(name=name, arguments=arguments)
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
    if last is None:
        messages.append({"role": "assistant", "tool_calls": [call]})
    else:
        last.setdefault("tool_calls", []).append(call)


def _add_result(item: Mapping[str, Any], messages: list[Chat]) -> None:
    messages.append(
        {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    )


_ITEMS: dict[str, Callable[[Mapping[str, Any], list[Chat]], None]] = {
    "message": _add_message,
    "reasoning": _add_reasoning,
    "function_call": _add_call,
    "custom_tool_call": _add_call,
    "function_call_output": _add_result,
    "custom_tool_call_output": _add_result,
}


def _add_to_assistant(messages: list[Chat], name: str, text: str) -> None:
    """To the assistant's message before, if that has no such field yet; else as one of its own."""
    last = messages[-1] if messages else None
    if last is not None and last["role"] == "assistant" and last.get(name) is None:
        last[name] = text
    else:
        messages.append({"role": "assistant", name: text})


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    if part.get("type") in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    return dict(part)


def _tools(tools: Any) -> list[Chat]:
    """The functions among the tools; others that the model is shown are made by the engine."""
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise CannotRender(Why.SHAPE, "tools")
    if any(tool.get("type") in ("custom", "namespace") for tool in tools):
        raise CannotRender(Why.OTHER_FORMAT, "tools that the engine rewrites")
    return [_function(tool) for tool in tools if tool.get("type") == "function"]


def _function(tool: Mapping[str, Any]) -> Chat:
    names = ("name", "description", "parameters")
    function: Chat = {name: tool.get(name) for name in names}
    for name in ("strict", "defer_loading"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _continues(asked: Any) -> bool:
    """Whether the last item is an answer cut short, which the model is to go on with."""
    last = asked[-1] if isinstance(asked, list) and asked else None
    return (
        isinstance(last, Mapping)
        and (last.get("type") or "message") in ("message", "reasoning")
        and last.get("status") in ("in_progress", "incomplete")
    )
