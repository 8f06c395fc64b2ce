"""Requests to the other APIs, drawn from a seed as those of `fuzz` are."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from tests.support.engine_contract.rows import MODEL, MODELS_CHOICE, Row

SEED, COUNT = 7, 240
_ODD: list[Any] = [None, 5, -1, 1.5, "x", "", [], {}, [5], True, 2**70, "x" * 1200]
_ODD_SHARE = 0.05
_SALTS = ["", "a", "@", 5, "a" * 200]
_HELLO = [{"role": "user", "content": "a"}]
_MESSAGES = [_HELLO, [], "x", [{}], [{"role": "user", "content": 5}]]


class _Api(NamedTuple):
    name: str
    path: str
    usual: dict[str, Any]
    fields: dict[str, list[Any]]


_TOKENIZE = _Api(
    "tokenize",
    "/tokenize",
    {"prompt": "Hello"},
    {
        "model": [MODEL, "x", 5],
        "prompt": ["Hello", "", [1], 5, None],
        "messages": _MESSAGES,
        "add_special_tokens": [True, False, "x"],
        "return_token_strs": [True, "x"],
        "add_generation_prompt": [True, False, "x"],
        "continue_final_message": [True],
        "chat_template_kwargs": [{}, "x"],
        "tools": [[], "x", [{}]],
        "chat_template": ["x", 5],
    },
)
_DETOKENIZE = _Api(
    "detokenize",
    "/detokenize",
    {"tokens": [5, 6]},
    {
        "model": [MODEL, "x", 5],
        "tokens": [[5, 6], [], "x", [99_999], [-1], ["a"], [1.5], 5, [2**70]],
    },
)
_RESPONSES = _Api(
    "response",
    "/v1/responses",
    {"input": "Hi", "max_output_tokens": 2, "temperature": 0},
    {
        "model": [MODEL, "x", 5],
        "input": ["Hi", [], "", 5, _HELLO, [5], [{}]],
        "include": [["message.output_text.logprobs"], "x", ["x"]],
        "instructions": ["be", 5],
        "max_output_tokens": [3, 0, -1, "x", 1, 10_000],
        "metadata": [{}, "x", {"a": 5}],
        "parallel_tool_calls": [False, "x"],
        "previous_response_id": ["x", 5],
        "priority": [0, 1, "x"],
        "background": [False],
        "cache_salt": _SALTS,
        "seed": [5, "x"],
        "service_tier": ["auto", "x"],
        "stop": ["e", 5],
        "store": [False, "x"],
        "stream": [True, "x"],
        "temperature": [0, -1, "x", 3],
        "text": [
            {"format": {"type": "text"}},
            "x",
            {},
            {"format": {"type": "x"}},
            {"format": {"type": "json_object"}},
            {"format": {"type": "json_schema", "name": "a", "schema": {"const": 1}}},
            {"verbosity": "x"},
        ],
        "tool_choice": ["none", "auto", "x", "required", {"type": "function", "name": "x"}],
        "tools": ["x", [{}], [{"type": "function"}], [{"type": "function", "name": "x"}]],
        "top_logprobs": [0, 2, "x", 30],
        "top_p": [0.5, 0, 2],
        "truncation": ["disabled", "auto", "x"],
        "user": ["a", 5],
    },
)
_ASKED_MESSAGES = _Api(
    "message",
    "/v1/messages",
    {"messages": _HELLO, "max_tokens": 2, "temperature": 0},
    {
        "model": ["x", "", 5],
        "messages": [
            *_MESSAGES,
            [{"role": "x", "content": "a"}],
            [{"role": "user", "content": []}],
        ],
        "max_tokens": [3, 0, -1, "x", 10_000],
        "metadata": [{}, "x"],
        "stop_sequences": [["e"], [""], "x", [5]],
        "stream": [True, "x"],
        "system": ["be", 5, [{"type": "text", "text": "a"}], []],
        "temperature": [0, -1, "x", 3],
        "tool_choice": ["x", {"type": "auto"}, {"type": "x"}, {"type": "tool"}, {"type": "none"}],
        "tools": ["x", [], [{}], [{"name": "x", "input_schema": {}}]],
        "top_k": [5, -3, "x"],
        "top_p": [0.5, 2, "x"],
        "cache_salt": _SALTS,
    },
)
_COUNTED = _ASKED_MESSAGES._replace(name="counted", path="/v1/messages/count_tokens")
_INVOKED = _Api(
    "invoked",
    "/invocations",
    {"prompt": "Hello", "max_tokens": 2, "temperature": 0},
    {
        "model": ["x", 5, None],
        "messages": _MESSAGES,
        "prompt": ["a", "", 5, None],
        "max_tokens": [1, -1, "x"],
        "stream": [True, "x"],
        "top_p": [0.5, 2],
    },
)
_APIS = (_TOKENIZE, _DETOKENIZE, _RESPONSES, _ASKED_MESSAGES, _COUNTED, _INVOKED)


def api_rows(seed: int = SEED, count: int = COUNT) -> tuple[Row, ...]:
    """Requests to the APIs in turn, each with a few fields drawn."""
    rng = random.Random(seed)
    return tuple(_drawn(rng, number) for number in range(count))


def _drawn(rng: random.Random, number: int) -> Row:
    api = _APIS[number % len(_APIS)]
    body: dict[str, Any] = {"model": MODEL} | api.usual
    for name in rng.sample(sorted(api.fields), min(len(api.fields), rng.choice((1, 1, 2, 3)))):
        body[name] = rng.choice(api.fields[name])
    if rng.random() < _ODD_SHARE:
        body[rng.choice(sorted(api.fields))] = rng.choice(_ODD)
    return Row(f"drawn_{api.name}_{number}", api.path, body, free=MODELS_CHOICE)
