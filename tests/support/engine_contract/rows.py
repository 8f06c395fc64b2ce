"""The requests of the engine contract, in the order in which they are sent to one engine.

The engine serves `demo:llama` as `m` with an adapter `l1`: blocks of 32 tokens, 40 of them (one is
vLLM's own null block), at most 512 tokens a sequence. `ONLY` lets the model say one token only, so
that blocks filled while decoding are the same everywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

Fields = dict[str, Any]
BLOCK = 32
KV_BLOCKS = 40
MAX_MODEL_LEN = 512
MODEL = "m"
ADAPTER = "l1"
ONLY: Fields = {"allowed_token_ids": [300], "ignore_eos": True, "temperature": 0}
FREE: Fields = {"ignore_eos": True, "temperature": 0}
MODELS_CHOICE = frozenset({"stop_reason"})
"""A model may end with any of its ends, and each is told in another way."""
WARM: Fields = {"temperature": 0.8}


@dataclass(frozen=True)
class Row:
    """One request and what of its answer is compared."""

    name: str
    path: str
    body: Any = None
    """A JSON value, bytes as they are, or None for a GET."""
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    exact: bool = False
    """Whether the whole answer is the same, but for ids and times."""
    free: frozenset[str] = frozenset()
    """Names of what a model chooses, whose values are not compared."""

    @property
    def says_freely(self) -> bool:
        """Whether the model chooses how many tokens it says."""
        return "completion_tokens" in self.free

    @property
    def generates(self) -> bool:
        """Whether an engine has to compute something for it, and tells of its cache."""
        return self.path.startswith("/v1/") and not self.path.endswith(("/render", "/count_tokens"))

    @property
    def verb(self) -> str:
        return self.method or ("GET" if self.body is None else "POST")


def some_ids(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(300, 4000) for _ in range(count)]


def completion(name: str, prompt: Any, exact: bool = False, **fields: Any) -> Row:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 4} | FREE | fields
    return Row(name, "/v1/completions", body, exact=exact)


def chat(name: str, *, exact: bool = False, headers: Any = None, **fields: Any) -> Row:
    messages = [{"role": "user", "content": "Say something about rivers."}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 4} | FREE | fields
    return Row(name, "/v1/chat/completions", body, headers=headers or {}, exact=exact)


USAGE: Fields = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS: Fields = {"include_usage": True, "continuous_usage_stats": True}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}
TURNS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": [{"type": "text", "text": "What is the answer?"}]},
    {"role": "assistant", "content": "Voilà."},
    {"role": "user", "content": "Grüße aus Köln 🌍"},
]

PLAIN = (
    Row("health", "/health"),
    Row("ping", "/ping"),
    Row("ping_post", "/ping", b"", method="POST"),
    Row("version", "/version"),
    Row("models", "/v1/models"),
    Row("load", "/load"),
    Row("event_sources", "/kv_event_sources"),
    Row("metrics", "/metrics"),
    Row("no_such_path", "/v1/nothing"),
    Row("wrong_method", "/v1/completions"),
)
TOKENIZER = (
    Row("tokenize_text", "/tokenize", {"model": MODEL, "prompt": "Hello rivers 🌍"}, exact=True),
    Row(
        "tokenize_strings",
        "/tokenize",
        {"prompt": "Voilà, Köln", "return_token_strs": True},
        exact=True,
    ),
    Row("tokenize_chat", "/tokenize", {"model": MODEL, "messages": TURNS}, exact=True),
    Row(
        "tokenize_no_generation",
        "/tokenize",
        {"messages": TURNS, "add_generation_prompt": False},
        exact=True,
    ),
    Row("tokenize_unknown_model", "/tokenize", {"model": "x", "prompt": "a"}, exact=True),
    Row("tokenize_nothing", "/tokenize", {"model": MODEL}),
    Row("detokenize", "/detokenize", {"model": MODEL, "tokens": some_ids(1, 9)}, exact=True),
    Row("detokenize_nothing", "/detokenize", {"model": MODEL}),
    Row("detokenize_text", "/detokenize", {"model": MODEL, "tokens": "a"}),
)
REFUSED = (
    Row("not_json", "/v1/completions", b"{"),
    Row("empty_body", "/v1/chat/completions", b""),
    Row("a_list", "/v1/chat/completions", []),
    Row("no_messages", "/v1/chat/completions", {"model": MODEL}),
    chat("messages_empty", messages=[]),
    chat("messages_text", messages="hello"),
    chat("message_without_role", messages=[{"content": "a"}]),
    chat("chat_unknown_model", model="nobody"),
    completion("unknown_model", "hello", model="nobody"),
    completion("too_long", some_ids(2, MAX_MODEL_LEN + 1)),
    completion("as_long_as_all", some_ids(2, MAX_MODEL_LEN)),
    completion("max_tokens_above_all", some_ids(3, 20), **ONLY | {"max_tokens": MAX_MODEL_LEN}),
    chat("chat_max_tokens_above_all", max_tokens=MAX_MODEL_LEN, **ONLY),
    completion("n_of_greedy", "hello", n=2),
    completion("max_tokens_zero", "hello", max_tokens=0),
    completion("max_tokens_negative", "hello", max_tokens=-1),
    completion("max_tokens_text", "hello", max_tokens="four"),
    completion("prompt_missing", None),
    completion("prompt_empty", ""),
    completion("prompt_no_ids", []),
    completion("prompt_number", 5),
    completion("prompt_unknown_id", [5, 1_000_000]),
    completion("prompt_negative_id", [5, -1]),
    completion("temperature_negative", "hello", temperature=-1),
    completion("top_p_above_one", "hello", top_p=2),
    completion("n_zero", "hello", n=0),
    completion("stop_empty", "hello", stop=""),
    completion("min_above_max", "hello", min_tokens=9),
    completion("stream_options_alone", "hello", stream_options={"include_usage": True}),
    completion("priority_without_policy", "hello", priority=1),
    completion("cache_salt_empty", "hello", cache_salt=""),
    completion("seed_text", "hello", seed="x"),
    completion("allowed_unknown", "hello", allowed_token_ids=[1_000_000]),
    completion("allowed_none", "hello", allowed_token_ids=[]),
    chat("tools_empty", tools=[]),
    chat("tool_choice_without_parser", tools=[TOOL], tool_choice="auto"),
    chat("tool_choice_alone", tool_choice="required"),
    chat("continue_and_generate", continue_final_message=True, add_generation_prompt=True),
    Row(
        "rank_out_of_range",
        "/v1/completions",
        {"model": MODEL, "prompt": "hello", "max_tokens": 1},
        headers={"X-data-parallel-rank": "3"},
    ),
)
COMPLETIONS = (
    completion("text", "Rivers are", **ONLY, exact=True),
    completion("text_free", "Rivers are"),
    completion("text_ids", [5, 6, 7], **ONLY, exact=True),
    completion("texts", ["Rivers are", "Köln"], **ONLY, exact=True),
    completion("lists_of_ids", [[5, 6, 7], [8, 9]], **ONLY, exact=True),
    completion("model_unnamed", "Rivers are", model=None, **ONLY, exact=True),
    completion("default_max_tokens", "Rivers are", max_tokens=None, **ONLY, exact=True),
    completion("streamed", "Rivers are", stream=True, **ONLY, exact=True),
    completion("streamed_usage", "Rivers are", **USAGE, **ONLY, exact=True),
    completion("streamed_free", "Rivers are", max_tokens=12, **USAGE),
    completion("streamed_continuous", "Rivers", stream=True, stream_options=CONTINUOUS, **ONLY),
    completion("streamed_texts", ["Rivers are", "Köln"], **USAGE, **ONLY),
    completion("with_ids", "Rivers are", return_token_ids=True, **ONLY, exact=True),
    completion("streamed_with_ids", "Rivers", stream=True, return_token_ids=True, **ONLY),
    completion("echoed", "Rivers are", echo=True, **ONLY, exact=True),
    completion("streamed_echo", "Rivers are", echo=True, stream=True, **ONLY, exact=True),
    completion("two_choices", "Rivers are", n=2, **ONLY | WARM, exact=True),
    completion("two_choices_streamed", "Rivers are", n=2, **USAGE | ONLY | WARM),
    completion("stopped_by_id", "Rivers", stop_token_ids=[300], **ONLY, exact=True),
    completion("stopped_streamed", "Rivers", stop_token_ids=[300], **USAGE, **ONLY, exact=True),
    completion(
        "minimum", "Rivers", min_tokens=3, stop=" e", exact=True, **ONLY | {"max_tokens": 9}
    ),
    completion("seeded", "Rivers are", seed=7, temperature=0.8),
    completion("stopped_by_text", "Rivers", stop=[" e e"], **ONLY | {"max_tokens": 9}, exact=True),
    completion(
        "stopped_by_text_kept",
        "Rivers",
        stop="e e",
        include_stop_str_in_output=True,
        **ONLY,
        exact=True,
    ),
    completion(
        "stop_split_in_stream",
        "Rivers",
        stop=["e e e"],
        **USAGE | ONLY | {"max_tokens": 9},
        exact=True,
    ),
    completion("stop_never", "Rivers", stop=["e x"], **USAGE | ONLY, exact=True),
    completion("two_bytes_a_token", "K", allowed_token_ids=[128, 129], max_tokens=6),
    completion("truncated", some_ids(9, 50), truncate_prompt_tokens=10, **ONLY, exact=True),
    completion("user_named", "Rivers are", user="somebody", **ONLY, exact=True),
    completion("unknown_field", "Rivers are", wobble=1, **ONLY, exact=True),
    completion("to_the_end", some_ids(4, 500), max_tokens=None, **ONLY),
)
CHATS = (
    chat("chat", **ONLY, exact=True),
    chat("chat_free"),
    chat("chat_turns", messages=TURNS, **ONLY, exact=True),
    chat("chat_streamed", stream=True, **ONLY, exact=True),
    chat("chat_streamed_usage", **USAGE, **ONLY, exact=True),
    chat("chat_streamed_continuous", stream=True, stream_options=CONTINUOUS, **ONLY),
    chat("chat_streamed_one", max_tokens=1, **USAGE, **ONLY, exact=True),
    chat("chat_with_ids", return_token_ids=True, **ONLY, exact=True),
    chat("chat_streamed_with_ids", stream=True, return_token_ids=True, **ONLY),
    chat("chat_completion_tokens", max_tokens=None, max_completion_tokens=3, **ONLY, exact=True),
    chat("chat_two_choices", n=2, **ONLY | WARM, exact=True),
    chat("chat_two_streamed", n=2, **USAGE | ONLY | WARM),
    chat("chat_stopped", stop_token_ids=[300], **USAGE, **ONLY, exact=True),
    chat("chat_stopped_by_text", stop="e e", **ONLY, exact=True),
    chat("chat_tools_none", tools=[TOOL], tool_choice="none", **ONLY, exact=True),
    chat("chat_request_id", headers={"X-Request-Id": "my-request"}, **ONLY, exact=True),
    chat("chat_id_in_body", request_id="body-request", **ONLY, exact=True),
    chat("chat_salted", cache_salt="pepper", **ONLY, exact=True),
    chat("chat_nobody_named", model=None, **ONLY, exact=True),
)

RIVERS = "Say something about rivers."
FUNCTION = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
"""A tool as `/v1/responses` takes it."""
ITEMS = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    {"type": "message", "role": "assistant", "content": "Voilà."},
    {"role": "user", "content": RIVERS},
]


def response(name: str, **fields: Any) -> Row:
    body = {"model": MODEL, "input": RIVERS, "max_output_tokens": 4, "temperature": 0} | fields
    return Row(f"response_{name}", "/v1/responses", body)


def message(name: str, path: str = "/v1/messages", **fields: Any) -> Row:
    messages = [{"role": "user", "content": RIVERS}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 4, "temperature": 0} | fields
    return Row(f"message_{name}", path, body)


RESPONSES = (
    response("text"),
    response("items", input=ITEMS, instructions="Be kind."),
    response("streamed", stream=True),
    response("metadata", metadata={"a": "b"}, user="somebody", top_p=0.5),
    response("salted", cache_salt="pepper", store=False),
    response("tools", tools=[FUNCTION]),
    response("unknown_model", model="nobody"),
    response("earlier", previous_response_id="resp_nothing"),
    response("in_background", background=True),
    response("temperature_negative", temperature=-1),
    response("too_long", input="river " * 600),
    Row("response_without_input", "/v1/responses", {"model": MODEL}),
    Row("response_stored", "/v1/responses/resp_nothing"),
    Row("response_cancelled", "/v1/responses/resp_nothing/cancel", b"", method="POST"),
)
MESSAGES = (
    message("text"),
    message("system", system="Be kind.", stop_sequences=["zzz"]),
    message("blocks", messages=[{"role": "user", "content": [{"type": "text", "text": RIVERS}]}]),
    message("streamed", stream=True),
    message("salted", cache_salt="pepper"),
    message("counted", "/v1/messages/count_tokens"),
    message("unknown_model", model="nobody"),
    message("empty", messages=[]),
    message("too_long", messages=[{"role": "user", "content": "river " * 600}]),
    message("temperature_negative", temperature=-1),
    message("tools", tools=[{"name": "weather", "input_schema": {"type": "object"}}]),
    message(
        "tool_any",
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
        tool_choice={"type": "any"},
    ),
    Row("message_without_limit", "/v1/messages", {"model": MODEL, "messages": []}),
    Row("message_not_json", "/v1/messages", b"{"),
)
TOOLS = (
    chat("tool_required", tools=[TOOL], tool_choice="required"),
    chat("tool_named", tools=[TOOL], tool_choice=TOOL),
    chat(
        "tool_unknown",
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "nothing"}},
    ),
)

LOGPROBS = (
    completion("logprobs", "Rivers are", logprobs=2),
    completion("logprobs_none_else", "Rivers are", logprobs=0),
    completion("logprobs_streamed", "Rivers are", logprobs=1, **USAGE),
    completion("logprobs_too_many", "Rivers are", logprobs=100),
    chat("chat_logprobs", logprobs=True, top_logprobs=2),
    chat("chat_logprobs_none_else", logprobs=True),
    chat("chat_logprobs_streamed", logprobs=True, top_logprobs=1, **USAGE),
    chat("chat_top_logprobs_alone", top_logprobs=2),
)

A = some_ids(100, 3 * BLOCK + 5)
"""Three full blocks and a bit."""
EXACTLY = some_ids(101, 4 * BLOCK)
LONG = some_ids(102, 10 * BLOCK + 3)


def cached(name: str, prompt: list[int], **fields: Any) -> Row:
    return completion(f"cache_{name}", prompt, exact=True, **{"max_tokens": 1} | ONLY | fields)


CACHE = (
    cached("cold", A),
    cached("again", A),
    cached("extended", A + some_ids(103, 40)),
    cached("half", A[: 2 * BLOCK] + some_ids(104, 40)),
    cached("shorter_than_a_block", A[:20]),
    cached("ends_at_a_block", EXACTLY),
    cached("ends_at_a_block_again", EXACTLY),
    cached("one_token_more", [*EXACTLY, 300]),
    cached("salted", A, cache_salt="t1"),
    cached("salted_again", A, cache_salt="t1"),
    cached("other_salt", A, cache_salt="t2"),
    cached("adapter", A, model=ADAPTER),
    cached("adapter_again", A, model=ADAPTER),
    cached("adapter_salted", A, model=ADAPTER, cache_salt="t1"),
    cached("decoded", some_ids(105, 40), max_tokens=60),
    cached("decoded_next_turn", [*some_ids(105, 40), *[300] * 60, *some_ids(106, 9)]),
    cached("filling_1", LONG),
    cached("filling_2", some_ids(107, 10 * BLOCK + 3)),
    cached("filling_3", some_ids(108, 10 * BLOCK + 3)),
    cached("evicted", A),
    cached("long_again", LONG),
    cached("filling_4", some_ids(109, 15 * BLOCK + 1), max_tokens=20),
    cached("long_kept", LONG),
    cached("exact_after_all", EXACTLY),
    cached("streamed", LONG, **USAGE),
    cached("of_a_session", some_ids(110, 40), session_id="agent-1"),
    chat("cache_chat", messages=[{"role": "user", "content": "river " * 80}], **ONLY, exact=True),
    chat(
        "cache_chat_streamed",
        messages=[{"role": "user", "content": "river " * 80}],
        **USAGE | ONLY,
        exact=True,
    ),
)

ROWS: tuple[Row, ...] = (
    *(*PLAIN, *TOKENIZER, *REFUSED, *COMPLETIONS, *CHATS),
    *(*RESPONSES, *MESSAGES, *TOOLS, *LOGPROBS, *CACHE),
)
