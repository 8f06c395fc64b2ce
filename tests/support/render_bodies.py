"""Chat bodies for tests of rendering: what clients send, and the edges of what engines accept."""

from __future__ import annotations

from typing import Any

_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Zürich", "days": [1, 2.5]}'},
}
_TOOL = {
    "type": "function",
    "function": {
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "name": "get_weather",
        "description": "The weather <now> & 'later' — für alle",
    },
}

BODIES: dict[str, dict[str, Any]] = {
    "plain": {"messages": [{"role": "user", "content": "Hello there"}]},
    "system": {
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Who are you?"},
        ]
    },
    "turns": {
        "messages": [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": " Two  "},
            {"role": "user", "content": "Three\n\n  "},
        ]
    },
    "unicode": {
        "messages": [
            {"role": "user", "content": "Ünïcödé 日本語 🙂👩‍👩‍👧 \u200b\u00a0 e\u0301 ﬁ ½ \x07"},
            {"role": "assistant", "content": "Ελλάδα <|im_end|> <s> [INST] ▁x"},
            {"role": "user", "content": "<|im_start|>system\n</s>"},
        ]
    },
    "empty": {"messages": [{"role": "user", "content": ""}]},
    "tools": {"messages": [{"role": "user", "content": "Weather?"}], "tools": [_TOOL]},
    "tool_calls": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"t": 21}'},
            {"role": "user", "content": "And tomorrow?"},
        ],
        "tools": [_TOOL],
    },
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
            {"role": "user", "content": "d"},
        ]
    },
    "continued": {
        "messages": [
            {"role": "user", "content": "Count"},
            {"role": "assistant", "content": "one, two,"},
        ],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "no_prompt": {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}],
        "add_generation_prompt": False,
    },
    "reasoning": {
        "messages": [
            {"role": "user", "content": "Think"},
            {"role": "assistant", "content": "done", "reasoning": "hard"},
        ],
        "reasoning_effort": "low",
    },
    "settings": {
        "messages": [{"role": "user", "content": "Hi", "name": "bob"}],
        "chat_template_kwargs": {"enable_thinking": False, "custom": "yes", "unused": 1},
        "documents": [{"title": "t", "text": "ü"}],
    },
    "specials": {
        "messages": [{"role": "user", "content": "Hi"}],
        "add_special_tokens": True,
    },
}

_USER = {"role": "user", "content": "Go on"}

# fmt: off
ODD_BODIES: dict[str, dict[str, Any]] = {
    name: {"messages": messages, **more}
    for name, messages, more in (
        ("echoed", [_USER, {"role": "assistant", "content": "x", "refusal": None, "audio": None,
            "function_call": None, "annotations": None, "tool_calls": [], "reasoning": "why"},
            _USER], {}),
        ("old_reasoning", [_USER, {"role": "assistant", "content": "x",
            "reasoning_content": "why"}, _USER], {"reasoning_effort": "none"}),
        ("disordered_call", [_USER, {"tool_calls": [{"index": 0, "type": "function", "function":
            {"name": "f", "extra": 1, "arguments": ""}, "id": "c"}], "role": "assistant"},
            {"content": "r", "name": "f", "role": "tool", "tool_call_id": "c"}, _USER], {}),
        ("wrong_arguments", [_USER, {"role": "assistant", "content": "", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{oops"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[1]"}}]},
            _USER], {}),
        ("developer", [{"role": "system", "content": "S"}, {"role": "developer", "content": "D",
            "tools": [_TOOL]}, _USER], {}),
        ("developer_late", [_USER, {"role": "developer", "content": "D"}, _USER], {}),
        ("developer_parts", [{"role": "developer", "content": [{"type": "text", "text": "p"},
            {"type": "text", "text": "q"}]}, {"role": "system", "content": ""}, _USER], {}),
        ("marked_parts", [{"role": "user", "content": [{"cache_control": {"type": "e"}, "text": "a",
            "type": "text"}, {"type": "refusal", "refusal": "no"}, {"thinking": "hm",
            "type": "thinking"}, {"type": "text", "text": ""}, "s"]}], {}),
        ("tool_parts", [_USER, {"role": "tool", "tool_call_id": "c", "content": [
            {"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}, _USER], {}),
        ("billing", [{"role": "system", "content": "x-anthropic-billing-header: cch=1;\nBe kind."},
            {"role": "system", "content": "x-anthropic-billing-header: cch=1;"}, _USER], {}),
        ("own_role", [{"role": "narrator", "content": "Once"}, {"role": "narrator"}, _USER], {}),
        ("no_parts", [{"role": "user", "content": []}], {}),
        ("cut", [_USER, {"role": "assistant", "content": "a long answer"}, _USER],
            {"truncate_prompt_tokens": 7}),
        ("cut_with_bos", [_USER], {"truncate_prompt_tokens": 5, "add_special_tokens": True}),
        ("cut_right", [_USER], {"truncate_prompt_tokens": 5, "truncation_side": "right"}),
        ("cut_left", [_USER], {"truncate_prompt_tokens": 5, "truncation_side": "left",
            "add_special_tokens": True}),
        ("cut_nothing", [_USER], {"truncate_prompt_tokens": 4000}),
        ("strict_tool", [_USER], {"tools": [{"type": "function", "defer_loading": True, "x": 1,
            "function": {"strict": True, "name": "f", "y": 2}}], "tool_choice": "none"}),
        ("own_tools", [_USER], {"chat_template_kwargs": {"tools": [{"a": 1}], "bos_token": "B",
            "documents": None, "reasoning_effort": "auto", "continue_final_message": True,
            "add_generation_prompt": False}}),
        ("continued_parts", [_USER, {"role": "assistant", "content": [{"type": "text",
            "text": "and so  "}]}], {"continue_final_message": True,
            "add_generation_prompt": False}),
        ("both_ends", [_USER], {"continue_final_message": True}),
        ("own_template", [_USER], {"chat_template": "{{ messages }}"}),
        ("no_tools", [_USER], {"tools": []}),
        ("bare_tool_call", [_USER, {"role": "assistant", "tool_calls": [{"function":
            {"name": "f"}}]}], {}),
        ("unknown_part", [{"role": "user", "content": [{"type": "hologram"}]}], {}),
        ("numbers", [{"role": "user", "content": 'x'}], {"tools": [{"type": "function", "function":
            {"name": "f", "parameters": {"a": 1e22, "b": 10**30, "c": -0.0, "d": 1.0}}}]}),
    )
}
# fmt: on
"""Bodies at the edges of what engines accept."""
