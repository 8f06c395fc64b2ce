"""Requests that are to be rendered and not answered, for an engine with `--enable-scale-out`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.support.engine_contract.fuzz import drawn_rows
from tests.support.engine_contract.rows import (
    ADAPTER,
    MAX_MODEL_LEN,
    TURNS,
    USAGE,
    Fields,
    Row,
    chat,
    completion,
    some_ids,
)
from tests.support.engine_contract.rows_tools import WEATHER

SCALE_OUT_FLAGS = ("--enable-scale-out",)
_NAMES = frozenset({"request_id"})
_SEED, _COUNT = 23, 120
ALL_PARAMETERS: Fields = {
    "temperature": 0.7,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 1,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "seed": 7,
    "stop": ["river", "lake"],
    "stop_token_ids": [300, 300, 301],
    "min_tokens": 2,
    "ignore_eos": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "logit_bias": {"300": 500, "301": -2},
    "allowed_token_ids": [300, 301],
    "bad_words": ["a", "a"],
    "cache_salt": "pepper",
    "vllm_xargs": {"a": 1},
    "kv_transfer_params": {"b": 2},
    "prompt_logprobs": 1,
}


def rendered(row: Row, *, exact: bool = True, named: bool = False) -> Row:
    """The same request, to be rendered."""
    free = row.free if named else row.free | _NAMES
    return replace(
        row, name=f"render_{row.name}", path=f"{row.path}/render", exact=exact, free=free
    )


def render_chat(name: str, *, named: bool = False, headers: Any = None, **fields: Any) -> Row:
    return rendered(chat(f"chat_{name}", headers=headers, **fields), named=named)


def render_text(name: str, prompt: Any, **fields: Any) -> Row:
    return rendered(completion(name, prompt, **fields))


def refused(row: Row) -> Row:
    return rendered(row, exact=False)


RENDERS: tuple[Row, ...] = (
    rendered(Row("bare", "/v1/chat/completions", {"messages": TURNS})),
    rendered(Row("bare_text", "/v1/completions", {"prompt": "Rivers are"})),
    render_chat("one"),
    render_chat("turns", messages=TURNS),
    render_chat("adapter", model=ADAPTER),
    render_chat("streamed", **USAGE),
    render_chat("named_in_body", request_id="body-request", named=True),
    render_chat("named_in_header", headers={"X-Request-Id": "my-request"}, named=True),
    render_chat("parameters", logprobs=True, top_logprobs=2, **ALL_PARAMETERS),
    render_chat("kept_stop", stop="river", include_stop_str_in_output=True),
    render_chat("sixteen", max_tokens=16),
    render_chat("no_limit", max_tokens=None),
    render_chat("two", n=2, temperature=1, seed=-1),
    render_chat("nearly_greedy", temperature=0.001),
    render_chat("truncated", messages=TURNS, truncate_prompt_tokens=5),
    render_chat("tools", tools=[WEATHER], tool_choice="none"),
    render_chat("object", response_format={"type": "json_object"}),
    render_chat("choice", structured_outputs={"choice": ["a", "b"]}),
    render_chat("cut", continue_final_message=True, add_generation_prompt=False, messages=TURNS),
    render_text("text", "Rivers are"),
    render_text("ids", some_ids(20, 9)),
    render_text("texts", ["Rivers are", "Köln"]),
    render_text("lists", [[5, 6], [7]]),
    render_text("parameters", "Rivers", logprobs=2, **ALL_PARAMETERS),
    render_text("echo", "Rivers", echo=True, max_tokens=0, logprobs=1),
    render_text("truncated", some_ids(21, 50), truncate_prompt_tokens=10),
    render_text("truncated_to_fit", some_ids(22, 600), truncate_prompt_tokens=-1),
    render_text("filling_all", some_ids(22, MAX_MODEL_LEN - 1), max_tokens=None),
    refused(completion("too_long", some_ids(22, MAX_MODEL_LEN + 1))),
    refused(completion("as_long_as_all", some_ids(22, MAX_MODEL_LEN))),
    refused(completion("unknown_ids", [5, 1_000_000])),
    refused(completion("unknown_model", "a", model="nobody")),
    refused(completion("beams", "a", use_beam_search=True)),
    refused(chat("chat_beams", use_beam_search=True)),
    refused(chat("chat_unknown_model", model="nobody")),
    refused(chat("chat_empty", messages=[])),
    refused(chat("chat_tool_unknown", tools=[WEATHER], tool_choice={"type": "function"})),
    Row("render_not_json", "/v1/chat/completions/render", b"{"),
    Row("render_wrong_method", "/v1/chat/completions/render"),
    *(refused(row) for row in drawn_rows(_SEED, _COUNT)),
)
