"""`/render` as vLLM 0.32 serves it with `--enable-scale-out`: tokens, and how to go on from them.

The answer is the request that an engine which takes tokens would be sent. Of its sampling
parameters, fractions are always told, and others where they are not the engine's usual ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from workers.engine.simulated.server.bodies import ChatBody, GenerationBody, StreamOptions
from workers.engine.simulated.server.constraints import StructuredOutputs, effective
from workers.engine.simulated.server.message_bodies import MessageBody
from workers.engine.simulated.server.refusals import Refusal
from workers.engine.simulated.server.response_bodies import ResponseBody

_TEMPERATURE_MIN = 0.01
_GREEDY_BELOW = 1e-5
_BIAS_MAX = 100.0
_DELTA, _FINAL_ONLY = 1, 2
"""Kinds of output."""
_USUAL: Mapping[str, Any] = MappingProxyType(
    {
        "n": 1,
        "top_k": 0,
        "ignore_eos": False,
        "max_tokens": 16,
        "min_tokens": 0,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "include_stop_str_in_output": False,
        "output_text_buffer_length": 0,
        "routed_experts_prompt_start": 0,
    }
)
"""What is not told; of all other parameters, None is not."""
_FRACTIONS: Mapping[str, float] = MappingProxyType(
    {
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "min_p": 0.0,
    }
)
_AS_GIVEN = (
    *("n", "watermarking", "top_k", "seed", "ignore_eos", "min_tokens"),
    *("skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output"),
    *("stream_interval", "allowed_token_ids", "thinking_token_budget", "repetition_detection"),
    "routed_experts_prompt_start",
)


Offsets = list[tuple[int, int]]
"""For each token where its characters begin and end in the prompt's text."""


def rendered_request(
    body: GenerationBody, prompt: list[int], offsets: Offsets | None, limit: int, request_id: str
) -> dict[str, Any]:
    """The request for an engine; `limit` is the output's. Raises `Refusal`."""
    if not prompt:
        raise Refusal("No token_ids rendered")
    own = isinstance(body, ResponseBody)
    options = None if own else body.stream_options
    if isinstance(body, MessageBody):
        options = StreamOptions(include_usage=True, continuous_usage_stats=True)
    return {
        "request_id": request_id,
        "token_ids": prompt,
        "token_offsets": offsets,
        "features": None,
        "content_parts": None,
        "sampling_params": _sampling(body, limit),
        "model": body.model,
        "reasoning_ended": None,
        "reasoning_parser_kwargs": None,
        "return_token_ids": None,
        "output_mode": "tokens",
        "stream": bool(body.stream),
        "stream_options": options.model_dump() if options and body.stream else None,
        "cache_salt": body.cache_salt,
        "priority": body.priority,
        "kv_transfer_params": body.kv_transfer_params if own else None,
        "ec_transfer_params": None,
    }


def _sampling(body: GenerationBody, limit: int) -> dict[str, Any]:
    given = {name: getattr(body, name) for name in _AS_GIVEN}
    for name, usual in _FRACTIONS.items():
        value = getattr(body, name)
        given[name] = usual if value is None else value
    if 0 < given["temperature"] < _TEMPERATURE_MIN:
        given["temperature"] = _TEMPERATURE_MIN
    elif given["temperature"] < _GREEDY_BELOW:
        given |= {"top_p": None, "top_k": None, "min_p": None}
    if body.seed == -1:
        given["seed"] = None
    if isinstance(body, ChatBody) and body.tools and body.tool_choice not in (None, "none"):
        given["skip_special_tokens"] = False  # a parser of calls has to see them
    held = 0 if body.include_stop_str_in_output else max(map(len, body.stops), default=1) - 1
    asked = effective(body.structured_outputs, body.response_format)
    bias = body.logit_bias
    given |= {
        "stop": body.stops,
        "stop_token_ids": list(dict.fromkeys(body.stop_token_ids or ())),
        "bad_words": list(dict.fromkeys(body.bad_words)),
        "max_tokens": limit,
        "logprobs": None if body.logprob_token_ids else body.logprobs_asked,
        "prompt_logprobs": body.prompt_logprobs_asked,
        "logprob_token_ids": body.logprob_token_ids or None,
        "output_kind": _DELTA if body.stream else _FINAL_ONLY,
        "skip_clone": True,
        "output_text_buffer_length": held,
        "structured_outputs": None if asked is None else _constraint(asked),
        "logit_bias": None if bias is None else {int(k): _bounded(v) for k, v in bias.items()},
        "extra_args": _extra(body) or ({} if isinstance(body, ResponseBody) else None),
        "skip_reading_prefix_cache": body.prompt_logprobs_asked is not None,
    }
    return {name: value for name, value in given.items() if value not in (None, _USUAL.get(name))}


def _constraint(asked: StructuredOutputs) -> dict[str, Any]:
    return asked.model_dump(by_alias=True) | {"_backend": None, "_backend_was_auto": False}


def _extra(body: GenerationBody) -> dict[str, Any]:
    passed = {
        "kv_transfer_params": body.kv_transfer_params,
        "ec_transfer_params": body.ec_transfer_params,
    }
    return (body.vllm_xargs or {}) | {name: value for name, value in passed.items() if value}


def _bounded(bias: float) -> float:
    return min(_BIAS_MAX, max(-_BIAS_MAX, bias))
