"""Messages and responses become the chats that vLLM's own code makes of them, in this process."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rhizome.render.conversation import Call
from rhizome.render.messages import chat_of_messages
from rhizome.render.outcomes import CannotRender
from rhizome.render.renderer import Renderer, load_renderer
from rhizome.render.responses import chat_of_response
from tests.support.render_models import TEMPLATES, TOKENIZERS, write_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn of themselves
]

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
USER = {"role": "user", "content": "Is it raining?"}
MESSAGES: dict[str, dict[str, Any]] = {
    "text": {"messages": [USER]},
    "system": {"system": "Be brief.", "messages": [USER]},
    "system blocks": {
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: 5"},
            {"type": "text", "text": "Be brief."},
            {"type": "text", "text": "Be kind."},
        ],
        "messages": [USER],
    },
    "blocks": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "One"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Two"}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ]
    },
    "thinking": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm", "signature": "s"},
                    {"type": "redacted_thinking", "data": "x"},
                    {"type": "text", "text": "Yes."},
                ],
            },
            USER,
        ],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "tools": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Ulm"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "Rain"},
                    {"type": "text", "text": "So?"},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "Tells it", "input_schema": WEATHER}],
        "tool_choice": {"type": "auto"},
    },
    "only results": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "t1",
                        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    }
                ],
            },
        ],
        "tools": [{"name": "weather", "input_schema": {"properties": {}}, "strict": True}],
    },
    "template arguments": {
        "messages": [USER],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    "effort": {"messages": [USER], "output_config": {"effort": "low"}},
}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Ulm"}'}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "Rain"}
SAID = {
    "type": "message",
    "role": "assistant",
    "id": "msg_1",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Yes.", "annotations": []}],
}
TOOL = {"type": "function", "name": "weather", "description": "Tells it", "parameters": WEATHER}
RESPONSES: dict[str, dict[str, Any]] = {
    "text": {"input": "Is it raining?"},
    "instructions": {"input": "Is it raining?", "instructions": "Be brief."},
    "messages": {"input": [{"role": "system", "content": "Be brief."}, USER]},
    "parts": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "Is it raining?"}]}]
    },
    "an earlier answer": {"input": [USER, SAID, USER]},
    "an earlier easy answer": {"input": [USER, {"role": "assistant", "content": "Yes."}, USER]},
    "tools": {
        "input": [USER, CALL, RESULT, {**USER, "type": "message"}],
        "tools": [{**TOOL, "strict": True}],
    },
    "text and call": {"input": [USER, SAID, CALL, RESULT], "tools": [{**TOOL, "strict": None}]},
    "two calls": {
        "input": [USER, CALL, {**CALL, "call_id": "c2"}, RESULT, {**RESULT, "call_id": "c2"}],
        "tools": [{**TOOL, "strict": False}],
    },
    "reasoning": {
        "input": [
            USER,
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm"}],
            },
            SAID,
            USER,
        ],
        "reasoning": {"effort": "low"},
    },
    "cut short": {"input": [USER, {**SAID, "status": "incomplete"}]},
    "template arguments": {"input": "Hi", "chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.fixture(scope="module")
def renderers(tmp_path_factory: pytest.TempPathFactory) -> list[Renderer]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = next(iter(TOKENIZERS))
    return [
        load_renderer(write_model(folder / str(number), tokenizer, template))
        for number, template in enumerate(TEMPLATES.values())
    ]


def texts(renderers: list[Renderer], chat: dict[str, Any]) -> list[str | None]:
    """The prompt by each template; None where it cannot be rendered."""
    found: list[str | None] = []
    for renderer in renderers:
        try:
            found.append(renderer.chat_text(chat))
        except CannotRender:
            found.append(None)
    return found


def vllm_chat_of_messages(body: dict[str, Any]) -> dict[str, Any]:
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

    asked = {"model": "m", "max_tokens": 5000, **copy.deepcopy(body)}
    request = AnthropicMessagesRequest.model_validate(asked)
    chat = AnthropicServingMessages.to_chat_completion_request(request)
    fields = chat.model_dump(mode="json", exclude_none=True)
    return {**fields, "messages": [dict(message) for message in chat.messages]}


def vllm_chat_of_response(body: dict[str, Any]) -> dict[str, Any]:
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.openai.responses.utils import (
        construct_input_messages,
        construct_tool_dicts,
    )

    request = ResponsesRequest.model_validate({"model": "m", **copy.deepcopy(body)})
    chat: dict[str, Any] = {
        "messages": construct_input_messages(
            request_instructions=request.instructions, request_input=request.input
        )
    }
    tools = construct_tool_dicts(request.tools, request.tool_choice)
    if tools:
        chat["tools"] = tools
    params = request.build_chat_params(None, "auto").chat_template_kwargs
    chat["reasoning_effort"] = params.pop("reasoning_effort", None)
    for name in ("add_generation_prompt", "continue_final_message"):
        chat[name] = params.pop(name)
    return {**chat, "chat_template_kwargs": params}


@pytest.mark.parametrize("body", MESSAGES.values(), ids=MESSAGES)
def test_messages(renderers: list[Renderer], body: dict[str, Any]) -> None:
    ours = texts(renderers, chat_of_messages(body))
    assert any(ours)
    assert ours == texts(renderers, vllm_chat_of_messages(body))


@pytest.mark.parametrize("body", RESPONSES.values(), ids=RESPONSES)
def test_responses(renderers: list[Renderer], body: dict[str, Any]) -> None:
    chat = vllm_chat_of_response(body)
    for message in chat["messages"]:
        for part in message["content"] if isinstance(message.get("content"), list) else ():
            part["type"] = "text"  # vLLM's own reader takes input_text for text
        for call in message.get("tool_calls") or ():
            call["function"] = Call(call["function"])  # whose order is vLLM's own
    ours = texts(renderers, chat_of_response(body))
    assert any(ours)
    assert ours == texts(renderers, chat)
