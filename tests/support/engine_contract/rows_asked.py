"""Requests that bind what is said, ask about the prompt's tokens, or have tools called.

A random model seldom ends a text that may go on. So rows that compare ends leave one way to go on,
or are cut.
"""

from __future__ import annotations

from typing import Any

from tests.support.engine_contract.rows import (
    ADAPTER,
    BLOCK,
    MODEL,
    MODELS_CHOICE,
    ONLY,
    USAGE,
    Fields,
    Row,
    chat,
    completion,
    response,
    some_ids,
)

COLOURS = {
    "type": "object",
    "properties": {"a": {"enum": ["x"]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
_LENGTHS = frozenset({"completion_tokens", "total_tokens"})
LOGPROBS = ["message.output_text.logprobs"]
ENDS: Fields = {"ignore_eos": False, "temperature": 0}


def bound(name: str, **fields: Any) -> Row:
    """A completion that ends as its constraint says; tokens may be cut in other ways."""
    row = completion(f"bound_{name}", "Rivers", **{"max_tokens": 12} | fields | ENDS)
    return Row(row.name, row.path, row.body, free=MODELS_CHOICE | _LENGTHS)


def cut(name: str, **fields: Any) -> Row:
    """A chat that is cut before its constraint is met."""
    return chat(f"cut_{name}", **{"max_tokens": 2} | fields | ENDS)


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}


def faulty(name: str, **asked: Any) -> Row:
    return completion(f"bound_wrong_{name}", "Rivers", structured_outputs=asked)


BOUND = (
    bound("choice", structured_outputs={"choice": ["a"]}),
    bound("choice_streamed", structured_outputs={"choice": ["a"]}, **USAGE),
    bound("choice_of_two", structured_outputs={"choice": ["yes", "no"]}),
    bound("regex", structured_outputs={"regex": "[ab]{3}"}),
    bound("regex_empty", structured_outputs={"regex": ""}),
    bound("json_enum", structured_outputs={"json": {"enum": ["x"]}}),
    bound("json_text", structured_outputs={"json": '{"const": 7}'}),
    bound("format", response_format=schema_format({"type": "boolean"})),
    bound(
        "ref", response_format=schema_format({"$ref": "#/$defs/a", "$defs": {"a": {"const": 1}}})
    ),
    bound("stopped", structured_outputs={"choice": ["abc"]}, stop=["b"]),
    bound("text_format", response_format={"type": "text"}, max_tokens=2),
    bound("twice", structured_outputs={"choice": ["a"]}, n=2, temperature=0.7),
    completion("bound_and_on", "Rivers", structured_outputs={"choice": ["a"]}, max_tokens=6),
    cut("object", response_format={"type": "json_object"}),
    cut("schema", response_format=schema_format(COLOURS)),
    cut("schema_streamed", response_format=schema_format(COLOURS), **USAGE),
    cut("schema_over_format", structured_outputs={"json": COLOURS}, logprobs=True),
    cut("no_schema", response_format=schema_format(None)),
    cut("schema_missing", response_format={"type": "json_schema"}),
    cut("unknown_format", response_format={"type": "xml"}),
    cut("format_list", response_format=[]),
    faulty("regex", regex="(a"),
    faulty("look_ahead", regex="(?=a)a"),
    faulty("back_reference", regex=r"(a)\1"),
    faulty("nul", regex="a\0"),
    faulty("json", json="{"),
    faulty("type", json={"type": "nothing"}),
    faulty("bounds", json={"type": "integer", "minimum": 5, "maximum": 3}),
    faulty("lengths", json={"type": "string", "minLength": 5, "maxLength": 2}),
    faulty("items", json={"type": "array", "minItems": 3, "maxItems": 2}),
    faulty("enum", json={"enum": []}),
    faulty("ref", json={"$ref": "#/$defs/x"}),
    faulty("pattern", json={"type": "string", "pattern": "("}),
    faulty("format", json={"type": "string", "format": "nope"}),
    faulty("multiple", json={"type": "integer", "multipleOf": 7, "minimum": 8, "maximum": 13}),
    faulty("required", json={"type": "object", "properties": {"a": False}, "required": ["a"]}),
    faulty("choice", choice=[]),
    faulty("choice_number", choice=[1]),
    faulty("object", json_object=False),
    faulty("two", json=COLOURS, regex="a"),
    faulty("grammar_and_regex", grammar="a", regex="a"),
    faulty("nothing"),
    faulty("grammar_empty", grammar=""),
    completion("bound_wrong_list", "Rivers", structured_outputs=[]),
)
SEEN = some_ids(120, 2 * BLOCK + 3)
PROMPTS = (
    completion("prompt_logprobs", "Rivers", prompt_logprobs=1),
    completion("prompt_logprobs_none_else", "Rivers", prompt_logprobs=0),
    completion("prompt_logprobs_streamed", "Rivers", prompt_logprobs=0, **USAGE),
    completion("prompt_logprobs_cold", SEEN, prompt_logprobs=0, **ONLY),
    completion("prompt_logprobs_skip_the_cache", SEEN, prompt_logprobs=0, **ONLY),
    completion("prompt_logprobs_kept_for_others", SEEN, **ONLY),
    completion("prompt_logprobs_many", "Rivers", prompt_logprobs=21),
    completion("prompt_logprobs_all", "Rivers", prompt_logprobs=-1),
    completion("prompt_logprobs_stream_refused", "Rivers", prompt_logprobs=1, stream=True),
    chat("chat_prompt_logprobs", prompt_logprobs=1),
    completion("echo_logprobs", "Rivers", echo=True, logprobs=1),
    completion("echo_logprobs_streamed", "Rivers", echo=True, logprobs=1, **USAGE),
    completion("echo_alone", "Rivers", echo=True, max_tokens=0, exact=True),
    completion("echo_alone_streamed", "Rivers", echo=True, max_tokens=0, **USAGE),
    completion("echo_alone_logprobs", "Rivers", echo=True, max_tokens=0, logprobs=1),
    completion("echo_ids", "Rivers", echo=True, logprobs=1, return_token_ids=True),
    chat("chat_echo", echo=True),
    chat(
        "chat_echo_continued",
        echo=True,
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}],
        add_generation_prompt=False,
        continue_final_message=True,
    ),
    chat(
        "chat_echo_streamed",
        echo=True,
        messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}],
        add_generation_prompt=False,
        continue_final_message=True,
        **USAGE,
    ),
    chat("chat_prompt_text", return_prompt_text=True, **ONLY, exact=True),
    chat("chat_prompt_text_streamed", return_prompt_text=True, stream=True, **ONLY, exact=True),
    completion("logprobs_as_ids", "Rivers", logprobs=1, return_tokens_as_token_ids=True),
    chat("chat_logprobs_as_ids", logprobs=True, top_logprobs=1, return_tokens_as_token_ids=True),
    completion("suffix", "Rivers", suffix="x"),
    completion("embeds", "Rivers", prompt_embeds="abc"),
    completion("beams_streamed", "Rivers", use_beam_search=True, n=2, stream=True),
)
PATHS = (
    Row("embeddings", "/v1/embeddings", {"model": MODEL, "input": "a"}),
    Row("pooling", "/pooling", {"model": MODEL, "input": "a"}),
    Row("rerank", "/rerank", {}),
    Row("score", "/v1/score", {}),
    Row("classify", "/classify", {}),
    Row("render_chat", "/v1/chat/completions/render", {"model": MODEL, "messages": []}),
    Row("render_completion", "/v1/completions/render", {"model": MODEL, "prompt": "a"}),
    Row("tokens_in_tokens_out", "/inference/v1/generate", {}),
    Row("adapter_loaded", "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "y"}),
    Row("one_model", "/v1/models/m"),
    Row("invoked", "/invocations", {"model": MODEL, "prompt": "a", "max_tokens": 1} | ONLY),
    Row(
        "invoked_chat",
        "/invocations",
        {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 1} | ONLY,
    ),
    Row("invoked_model", "/invocations", {"model": "x", "prompt": "a", "max_tokens": 1} | ONLY),
    Row(
        "invoked_adapter",
        "/invocations",
        {"prompt": "a", "max_tokens": 1} | ONLY,
        headers={"X-Amzn-SageMaker-Adapter-Identifier": ADAPTER},
    ),
    Row("invoked_not_json", "/invocations", b"{"),
    response("logprobs", include=LOGPROBS, top_logprobs=2),
    response("logprobs_none_else", include=LOGPROBS),
    response("logprobs_streamed", include=LOGPROBS, top_logprobs=1, stream=True),
    Row("tokenize_specials", "/tokenize", {"prompt": "<|im_start|>a", "add_special_tokens": False}),
)
ASKED: tuple[Row, ...] = (*BOUND, *PROMPTS, *PATHS)
