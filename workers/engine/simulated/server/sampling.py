"""vLLM's own checks of sampling parameters, which come after a body is well-formed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from workers.engine.simulated.server.bodies import CompletionBody, GenerationBody
from workers.engine.simulated.server.refusals import Refusal, out_of_range
from workers.engine.simulated.server.words import Words

_SEQUENCES_MAX = 16_384
_LOGPROBS_MAX = 20
_LISTED_MAX = 128


def check_lengths(body: GenerationBody, context: int) -> None:
    """What is asked for may not be more than the model's whole context."""
    asked, name = body.output_limit, body.limit_name
    if asked is not None and asked > context:
        words = f"{name}={asked} cannot be greater than max_model_len={context}. "
        raise out_of_range(f"{words}Please request fewer output tokens.", name, asked)
    kept = body.truncate_prompt_tokens
    if kept is not None and kept > context:
        name = "truncate_prompt_tokens"
        words = f"{name}={kept} cannot be greater than max_model_len = {context}. "
        raise out_of_range(f"{words}Please request a smaller truncation size.", name, kept)


def check_sampling(body: GenerationBody, limit: int) -> None:
    """vLLM's own checks of sampling parameters, in its order; `limit` is the output's."""
    if body.choices < 1:
        raise Refusal(f"n must be at least 1, got {body.choices}.")
    if body.choices > _SEQUENCES_MAX:
        words = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
        raise Refusal(f"n must be at most {_SEQUENCES_MAX}, got {body.choices}. {words}")
    _check_bias(body)
    _check_ranges(body)
    if limit < 1:
        raise out_of_range(f"max_tokens must be at least 1, got {limit}.", "max_tokens", limit)
    if body.min_tokens < 0:
        raise Refusal(f"min_tokens must be greater than or equal to 0, got {body.min_tokens}.")
    if body.min_tokens > limit:
        raise Refusal(
            f"min_tokens must be less than or equal to max_tokens={limit}, got {body.min_tokens}."
        )
    if "" in body.stops:
        raise Refusal("stop cannot contain an empty string.")
    if "" in body.bad_words:
        raise Refusal(f"bad_words cannot contain an empty string. Got bad_words={body.bad_words}")
    if body.choices > 1 and body.temperature == 0:
        raise Refusal(f"n must be 1 when using greedy sampling, got {body.choices}.")


def check_vocabulary(body: GenerationBody, vocabulary: int) -> None:
    """The checks of an engine that is to say something, which knows its `vocabulary`."""
    _check_logprobs(body, vocabulary)
    _check_ids(body, vocabulary)
    if body.thinking_token_budget is not None:
        raise Refusal(
            "thinking_token_budget is set but reasoning_config is not configured. Please set "
            "--reasoning-parser and/or --reasoning-config to use thinking_token_budget."
        )


def check_words(body: GenerationBody) -> None:
    if any(not word.strip() for word in body.bad_words):
        words = "bad_words entries must tokenize to at least one token."
        raise out_of_range(words, "bad_words", body.bad_words)


def too_long(body: GenerationBody, prompt: Sequence[int], longest: int, words: Words) -> Refusal:
    """What is said of a prompt that does not fit."""
    given = body.prompt if isinstance(body, CompletionBody) else ""
    limit = f"This model's maximum context length is {longest} tokens. However, your prompt"
    is_text = isinstance(given, str) or (isinstance(given, list) and isinstance(given[0], str))
    if is_text and body.truncate_prompt_tokens is None:
        room = longest - (body.output_limit or 0)
        chars = len(words.library.decode(list(prompt), skip_special_tokens=False))
        if chars > room * words.token_chars_max:
            told = (
                f"{limit} contains {chars} characters (more than {room * words.token_chars_max} "
                f"characters, which is the upper bound for {room} input tokens). Please reduce the "
                "length of the input prompt."
            )
            return out_of_range(told, "input_text", chars)
    return longer_than(longest, longest + 1 if is_text else len(prompt))


def longer_than(longest: int, count: int | None = None) -> Refusal:
    """What is said of a prompt of `count` tokens; texts are not tokenized to their end."""
    count = count or longest + 1
    qualifier = "at least " if count == longest + 1 else ""
    told = (
        f"This model's maximum context length is {longest} tokens. However, your prompt contains "
        f"{qualifier}{count} input tokens, which exceeds this limit even without any output "
        "tokens. Please reduce the length of the input prompt."
    )
    return out_of_range(told, "input_tokens", count)


def check_prompts(prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
    for prompt in prompts:
        if not prompt:
            raise Refusal("The decoder prompt cannot be empty")
        if max(prompt) >= vocabulary:
            raise Refusal(f"Token id {max(prompt)} is out of vocabulary")


def _check_bias(body: GenerationBody) -> None:
    broken = [one for one in body.logit_bias or () if not _is_number(one)]
    if broken:
        words = (
            f"logit_bias contains key(s) that cannot be converted to integer token IDs: {broken}"
        )
        raise out_of_range(words, "logit_bias", broken)


def _is_number(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _check_ranges(body: GenerationBody) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = getattr(body, name)
        if value is not None and not -2.0 <= value <= 2.0:
            raise Refusal(f"{name} must be in [-2, 2], got {value}.")
    penalty = body.repetition_penalty
    if penalty is not None and not math.isfinite(penalty):
        raise Refusal(f"repetition_penalty must be a finite number, got {penalty}.")
    if penalty is not None and penalty <= 0:
        raise Refusal(f"repetition_penalty must be greater than zero, got {penalty}.")
    _check_randomness(body.temperature, body.top_p)
    if body.top_k is not None and body.top_k < -1:
        raise Refusal(f"top_k must be 0 (disable), or at least 1, got {body.top_k}.")
    if body.min_p is not None and not 0.0 <= body.min_p <= 1.0:
        raise Refusal(f"min_p must be in [0, 1], got {body.min_p}.")


def _check_randomness(temperature: float | None, top_p: float | None) -> None:
    if temperature is not None and not math.isfinite(temperature):
        words = f"temperature must be a finite number, got {temperature}."
        raise out_of_range(words, "temperature", temperature)
    if temperature is not None and temperature < 0:
        words = f"temperature must be non-negative, got {temperature}."
        raise out_of_range(words, "temperature", temperature)
    if temperature is not None and not temperature <= 2.0:
        words = f"temperature must be in [0, 2], got {temperature}."
        raise out_of_range(words, "temperature", temperature)
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise out_of_range(f"top_p must be in (0, 1], got {top_p}.", "top_p", top_p)


def _check_logprobs(body: GenerationBody, vocabulary: int) -> None:
    listed = body.logprob_token_ids
    sampled = None if listed else body.logprobs_asked
    asked = (("sample", sampled), ("prompt", body.prompt_logprobs_asked))
    for kind, shown in asked:
        count = vocabulary if shown == -1 else shown or 0
        if count > _LOGPROBS_MAX:
            words = f"Requested {kind} logprobs of {count}, which is greater than max allowed:"
            name = "logprobs" if kind == "sample" else "prompt_logprobs"
            raise out_of_range(f"{words} {_LOGPROBS_MAX}", name, count)


def _check_ids(body: GenerationBody, vocabulary: int) -> None:
    """Ids of tokens in any field have to be some token's."""
    listed = body.logprob_token_ids or []
    if len(listed) > _LISTED_MAX:
        name, count = "logprob_token_ids", len(listed)
        words = f"Requested {name} of length {count}, which is greater than max allowed:"
        raise out_of_range(f"{words} {_LISTED_MAX}", name, count)
    named = (
        ("logprob_token_ids", listed),
        ("logit_bias", [int(one) for one in body.logit_bias or ()]),
        ("stop_token_ids", body.stop_token_ids or []),
    )
    for name, ids in named:
        unknown = [one for one in ids if not 0 <= one < vocabulary]
        if unknown:
            words = f"token_id(s) {unknown} in {name} contain out-of-vocab token ids. "
            raise out_of_range(f"{words}Vocabulary size: {vocabulary}", name, unknown)
    allowed = body.allowed_token_ids
    if allowed is not None and not allowed:
        raise out_of_range("allowed_token_ids is not None and empty!", "allowed_token_ids", allowed)
    if allowed and any(not 0 <= one < vocabulary for one in allowed):
        words = "allowed_token_ids contains out-of-vocab token id!"
        raise out_of_range(words, "allowed_token_ids", allowed)
