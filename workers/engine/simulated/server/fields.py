"""Fields that are typed and change nothing here, and the order in which vLLM 0.32 has all fields.

A client is told of the first fault by name, so the order is part of the contract.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from workers.engine.simulated.server.refusals import Refusal, out_of_range

_REPEATED_MIN = 2
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


@dataclass
class RepetitionDetectionParams:
    """When a choice ends because it repeats itself."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    @model_validator(mode="after")
    def _check(self) -> RepetitionDetectionParams:
        if not 0 <= self.min_pattern_size <= self.max_pattern_size:
            raise Refusal(
                "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= "
                "max_pattern_size. Set both to 0 to disable repetitive pattern detection."
            )
        if self.max_pattern_size > 0 and self.min_count < _REPEATED_MIN:
            raise Refusal(
                f"min_count must be >= {_REPEATED_MIN} to detect repetitive patterns in engine "
                "output. If you do not wish to detect repetitive patterns, set max_pattern_size "
                "to 0."
            )
        return self

    def found_at_end(self, tokens: Sequence[int]) -> bool:
        """Whether the last tokens are one pattern, `min_count` times."""
        for size in range(max(1, self.min_pattern_size), self.max_pattern_size + 1):
            last = tokens[-size * self.min_count :]
            if len(last) < size * self.min_count:
                return False
            if last[size:] == last[:-size]:
                return True
        return False


def _budget(value: Any) -> Any:
    """The most tokens of thinking, None for no bound."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < -1):
        name = "thinking_token_budget"
        words = f"`{name}` must be a non-negative integer or -1 for unlimited."
        raise out_of_range(words, name, value)
    return None if value == -1 else value


class Unheeded(BaseModel):
    """What generating endpoints take and a simulation has no use for."""

    user: str | None = None
    length_penalty: float = 1.0
    watermarking: bool | None = None
    spaces_between_special_tokens: bool = True
    thinking_token_budget: Annotated[int | None, BeforeValidator(_budget)] = None
    routed_experts_prompt_start: int = Field(0, ge=0)
    return_token_offsets: bool | None = False
    mm_payload: Literal["tensors", "none"] = "tensors"
    return_mm_kwargs: bool | None = None
    kv_transfer_params: dict[str, Any] | None = None
    ec_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, str | int | float | list[str | int | float]] | None = None
    repetition_detection: RepetitionDetectionParams | None = None
    stream_interval: int | None = Field(None, ge=1)


class UnheededInChats(BaseModel):
    """The same of chats."""

    reasoning_effort: Effort | None = None
    include_reasoning: bool = True
    parallel_tool_calls: bool | None = True
    documents: list[dict[str, str]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None


CHAT_ORDER: tuple[str, ...] = (
    *("messages", "model", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
    *("max_tokens", "max_completion_tokens", "n", "presence_penalty", "response_format"),
    *("seed", "stop", "stream", "stream_options", "temperature", "top_p", "tools"),
    *("tool_choice", "reasoning_effort", "thinking_token_budget", "include_reasoning"),
    *("parallel_tool_calls", "user", "use_beam_search", "top_k", "min_p", "repetition_penalty"),
    *("watermarking", "length_penalty", "stop_token_ids", "include_stop_str_in_output"),
    *("ignore_eos", "min_tokens", "skip_special_tokens", "spaces_between_special_tokens"),
    *("truncate_prompt_tokens", "truncation_side", "prompt_logprobs", "logprob_token_ids"),
    *("allowed_token_ids", "bad_words", "echo", "add_generation_prompt"),
    *("continue_final_message", "add_special_tokens", "documents", "chat_template"),
    *("chat_template_kwargs", "media_io_kwargs", "mm_processor_kwargs", "structured_outputs"),
    *("priority", "request_id", "session_id", "return_tokens_as_token_ids", "return_token_ids"),
    *("routed_experts_prompt_start", "return_token_offsets", "return_prompt_text"),
    *("mm_payload", "return_mm_kwargs", "cache_salt", "kv_transfer_params"),
    *("ec_transfer_params", "vllm_xargs", "repetition_detection", "stream_interval"),
)
RESPONSE_ORDER: tuple[str, ...] = (
    *("background", "include", "input", "instructions", "max_output_tokens", "max_tool_calls"),
    *("metadata", "model", "logit_bias", "parallel_tool_calls", "previous_response_id", "prompt"),
    *("reasoning", "include_reasoning", "service_tier", "store", "stream", "temperature", "text"),
    *("tool_choice", "tools", "top_logprobs", "top_p", "top_k", "min_p", "truncation", "user"),
    *("skip_special_tokens", "include_stop_str_in_output", "presence_penalty"),
    *("frequency_penalty", "prompt_cache_key", "watermarking", "request_id", "session_id"),
    *("media_io_kwargs", "mm_processor_kwargs", "priority", "mm_payload", "return_mm_kwargs"),
    *("cache_salt", "enable_response_messages", "previous_input_messages", "structured_outputs"),
    *("repetition_penalty", "seed", "stop", "stop_token_ids", "ignore_eos", "vllm_xargs"),
    *("kv_transfer_params", "ec_transfer_params", "chat_template_kwargs"),
)
MESSAGE_ORDER: tuple[str, ...] = (
    *("model", "messages", "max_tokens", "metadata", "output_config", "thinking"),
    *("stop_sequences", "stream", "system", "temperature", "tool_choice", "tools", "top_k"),
    *("top_p", "mm_payload", "return_mm_kwargs", "cache_salt", "watermarking"),
)
COMPLETION_ORDER: tuple[str, ...] = (
    *("model", "prompt", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens"),
    *("n", "presence_penalty", "seed", "stop", "stream", "stream_options", "suffix"),
    *("temperature", "top_p", "user", "use_beam_search", "top_k", "min_p"),
    *("repetition_penalty", "watermarking", "length_penalty", "stop_token_ids"),
    *("include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens"),
    *("spaces_between_special_tokens", "truncate_prompt_tokens", "truncation_side"),
    *("allowed_token_ids", "prompt_logprobs", "logprob_token_ids", "bad_words"),
    *("prompt_embeds", "add_special_tokens", "response_format", "structured_outputs"),
    *("priority", "request_id", "session_id", "return_tokens_as_token_ids", "return_token_ids"),
    *("routed_experts_prompt_start", "return_token_offsets", "mm_payload", "return_mm_kwargs"),
    *("cache_salt", "kv_transfer_params", "ec_transfer_params", "vllm_xargs"),
    *("repetition_detection", "thinking_token_budget", "stream_interval"),
)
