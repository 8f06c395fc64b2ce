"""Requests drawn from a seed, most of them slightly wrong: both engines have to agree on each."""

from __future__ import annotations

import random
from typing import Any

from tests.support.engine_contract.rows import MODEL, MODELS_CHOICE, TOOL, Row

SEED, COUNT = 20, 200
_SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}
_FORMAT = {"type": "json_schema", "json_schema": {"name": "one", "schema": _SCHEMA}}
_HELLO = [{"role": "user", "content": "Hello"}]
_HUGE = 2**70
_SHARED: dict[str, list[Any]] = {
    "model": [MODEL, "l1", "x", None, 5, ""],
    "max_tokens": [1, 3, 0, -1, "x", 1.5, True, "3", _HUGE],
    "temperature": [0, 0.7, -1, 3, "hot", None, "0.5"],
    "top_p": [0.5, 0, 2, None, "x"],
    "top_k": [-1, 0, 5, -2, 1.5],
    "min_p": [0.1, -1, 2],
    "n": [1, 2, 0, None, "x", -1, 20_000],
    "stop": [None, "e", "", ["e", "x"], [""], 5, [1], ["a"] * 1025],
    "stop_token_ids": [[300], [99_999], ["a"], 5, [-1], []],
    "min_tokens": [0, 2, 9, -1, "x"],
    "prompt_logprobs": [0, 1, 21, -1, -2, "x", 1.5],
    "echo": [True, False, "x"],
    "stream": [True, False, "x", None],
    "stream_options": [{"include_usage": True}, {}, None, "x", {"include_usage": "x"}],
    "seed": [1, -1, _HUGE, "x"],
    "logit_bias": [{"300": 5}, {"99999": 1}, {"a": 1}, [], {"300": "x"}, {"-1": 1}],
    "allowed_token_ids": [[300], [], [-1], "x"],
    "presence_penalty": [0, 3, "x", None],
    "frequency_penalty": [0.5, -3],
    "repetition_penalty": [1, 0, -1],
    "ignore_eos": [True, "x"],
    "response_format": [
        {"type": "text"},
        {"type": "json_object"},
        _FORMAT,
        "x",
        {},
        {"type": "json_schema"},
        {"type": "xml"},
        {"type": "json_schema", "json_schema": {}},
    ],
    "structured_outputs": [
        {"choice": ["a"]},
        {"regex": "[ab]{3}"},
        {"json": _SCHEMA},
        {},
        {"choice": []},
        {"regex": "("},
        {"json": "{"},
        {"json": {"type": "x"}},
        "x",
        None,
        {"choice": ["a"], "regex": "a"},
        {"json_object": False},
        {"choice": [5]},
    ],
    "priority": [0, 5, "x", _HUGE],
    "cache_salt": ["a", "", 5, "x" * 1025],
    "request_id": ["abc", 5],
    "truncate_prompt_tokens": [2, -1, -2, 0, "x", 600],
    "truncation_side": ["left", "right", "x"],
    "include_stop_str_in_output": [True, "x"],
    "skip_special_tokens": [False, "x"],
    "add_special_tokens": [True, "x"],
    "return_token_ids": [True, "x"],
    "bad_words": [["river"], [""], "x", [5]],
    "user": ["u", 5],
    "wobble": [1],
}
_COMPLETION: dict[str, list[Any]] = {
    "prompt": [
        "Rivers",
        [5, 6],
        ["a", "b"],
        [[5], [6]],
        "",
        [],
        None,
        5,
        [5, "a"],
        [-1],
        [[]],
        [99999],
        [""],
        {"a": 1},
        [5.5],
        "river " * 600,
    ],
    "logprobs": [0, 1, 5, 21, -1, -2, True, "x", 1.5],
    "max_tokens": [1, 3, 0, None],
    "suffix": ["", "x"],
    "best_of": [2],
    "prompt_embeds": ["abc", 5],
}
_CHAT: dict[str, list[Any]] = {
    "messages": [
        _HELLO,
        [],
        "x",
        None,
        [5],
        [{}],
        [{"role": "user"}],
        [{"content": "a"}],
        [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": [{"type": "x"}]}],
        [{"role": "user", "content": None}],
        [*_HELLO, {"role": "assistant", "content": "Well"}],
        [{"role": 5, "content": "a"}],
    ],
    "logprobs": [True, False, "x", 1],
    "top_logprobs": [0, 2, 21, -1, -2, "x"],
    "max_completion_tokens": [2, 0, "x"],
    "tools": [[], [TOOL], "x", [{}], [5], None],
    "tool_choice": [
        "none",
        "auto",
        "required",
        "x",
        TOOL,
        {},
        {"function": {}},
        5,
        None,
        {"type": "function", "function": {"name": ""}},
    ],
    "add_generation_prompt": [False, "x"],
    "continue_final_message": [True, "x"],
    "return_prompt_text": [True, "x"],
    "parallel_tool_calls": [False, "x"],
    "reasoning_effort": ["low", "x"],
    "documents": ["x", [{"a": 5}]],
    "chat_template_kwargs": [{}, "x"],
}


def drawn_rows(seed: int = SEED, count: int = COUNT) -> tuple[Row, ...]:
    """Completions and chats in turn, each with a few fields drawn."""
    rng = random.Random(seed)
    return tuple(_drawn(rng, number) for number in range(count))


def _drawn(rng: random.Random, number: int) -> Row:
    chat = number % 2
    pool = _SHARED | (_CHAT if chat else _COMPLETION)
    body: dict[str, Any] = {"messages": _HELLO} if chat else {"prompt": "Rivers"}
    body |= {"model": MODEL, "max_tokens": 2, "temperature": 0}
    for name in rng.sample(sorted(pool), rng.choice((1, 1, 2, 2, 3, 4))):
        body[name] = rng.choice(pool[name])
    path = "/v1/chat/completions" if chat else "/v1/completions"
    return Row(f"drawn_{number}", path, body, free=MODELS_CHOICE)
