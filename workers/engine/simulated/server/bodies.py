"""Request bodies as vLLM 0.32 reads them: the same fields, defaults, refusals, and their order.

Fields that change nothing here (penalties, `user`, what is unknown) are accepted and ignored;
those that would need a model (beam search, media) are refused in words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from workers.engine.simulated.server.chat_messages import check_messages, fitting
from workers.engine.simulated.server.checks import (
    check_chat,
    check_completion,
    check_media_arguments,
    check_tool_choice,
    named,
)
from workers.engine.simulated.server.constraints import (
    AnyFormat,
    StructuredOutputs,
    effective,
    satisfying,
)
from workers.engine.simulated.server.fields import (
    CHAT_ORDER,
    COMPLETION_ORDER,
    Unheeded,
    UnheededInChats,
)
from workers.engine.simulated.server.refusals import (
    MALFORMED,
    Refusal,
    Unparsable,
    contradiction,
    fault_at,
    malformed,
    malformed_fields,
    not_simulated,
)
from workers.engine.simulated.server.tool_calls import call_text

INT64_MAX = 2**63 - 1
STOP_STRINGS_MAX = 4
_SALT_CHARS_MAX = 1024
_decoder = msgspec.json.Decoder()

TokenId = Annotated[int, Field(ge=0)]
Message = Annotated[dict[str, Any], AfterValidator(fitting)]
Named = Annotated[dict[str, Any], AfterValidator(named)]
Stop = str | Annotated[list[str], Field(max_length=STOP_STRINGS_MAX)] | None


class Body(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None


class StreamOptions(BaseModel):
    """`stream_options`."""

    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class Function(BaseModel):
    """What a tool does, and with which arguments."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """One of the `tools` of a chat."""

    type: Literal["function"] = "function"
    function: Function


class GenerationBody(Body, Unheeded):
    """What chat and completion bodies share."""

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = 1
    seed: int | None = Field(None, ge=-INT64_MAX - 1, le=INT64_MAX)
    stop: Stop = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    skip_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=INT64_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool = False
    """Where it is given; else it is for the endpoint to say."""
    echo: bool | None = False
    prompt_logprobs: int | None = None
    response_format: AnyFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    bad_words: list[str] = Field(default_factory=list)
    priority: int = Field(0, ge=-INT64_MAX - 1, le=INT64_MAX)
    request_id: str = ""
    session_id: str | None = None
    cache_salt: Annotated[str, Field(max_length=_SALT_CHARS_MAX)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    return_prompt_text: bool | None = None
    logprob_token_ids: list[int] | None = None
    use_beam_search: bool = False

    @property
    def output_limit(self) -> int | None:
        """The tokens asked for, None for as many as fit."""
        return self.max_tokens

    @property
    def limit_name(self) -> str:
        """The field that says so."""
        return "max_tokens"

    @property
    def logprobs_asked(self) -> int | None:
        """How many candidates are shown for each token; None for no log probabilities at all."""
        return None

    @property
    def prompt_logprobs_asked(self) -> int | None:
        """How many candidates are shown for each token of the prompt, None for none at all."""
        if self.prompt_logprobs is None and self.echo:
            return self.logprobs_of_echo
        return self.prompt_logprobs

    @property
    def logprobs_of_echo(self) -> int | None:
        """What `echo` makes of `prompt_logprobs`."""
        return self.logprobs_asked

    @property
    def output_wanted(self) -> bool:
        """Whether anything that is generated is shown."""
        return True

    @property
    def is_bound(self) -> bool:
        """Whether something may have to be said."""
        return self.structured_outputs is not None or self.response_format is not None

    def bound_text(self, rng: random.Random, words: list[str]) -> str | None:
        """What has to be said, where something has; raises `Refusal`."""
        asked = effective(self.structured_outputs, self.response_format)
        return None if asked is None else satisfying(asked, rng, words)

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def usage_in_each(self) -> bool:
        options = self.stream_options
        return self.includes_usage and options is not None and bool(options.continuous_usage_stats)


class CompletionBody(GenerationBody):
    """`/v1/completions`."""

    prompt: list[TokenId] | list[list[TokenId]] | str | list[str] | None = None
    max_tokens: int | None = 16
    n: int = 1
    suffix: str | None = None
    prompt_embeds: bytes | list[bytes] | None = None
    logprobs: int | None = None

    @property
    def logprobs_asked(self) -> int | None:
        return self.logprobs

    @property
    def output_wanted(self) -> bool:
        return not (self.echo and self.max_tokens == 0)

    @property
    def output_limit(self) -> int | None:
        # Engines cannot make nothing: where only the prompt is wanted, one token is made.
        return self.max_tokens if self.output_wanted else 1

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several; each a text or token ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        return list(prompt or ())


class ChatBody(GenerationBody, UnheededInChats):
    """`/v1/chat/completions`."""

    messages: list[Message]
    echo: bool = False
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | Named | None = "none"
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def limit_name(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def logprobs_asked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def logprobs_of_echo(self) -> int | None:
        return self.top_logprobs or 0

    @property
    def role(self) -> str:
        """Who says the answer."""
        return "assistant" if self.add_generation_prompt else str(self.messages[-1]["role"])

    @property
    def echoed_text(self) -> str:
        """The last message, where `echo` joins the answer to it."""
        last = self.messages[-1]
        if not self.echo or last.get("role") != self.role:
            return ""
        content = last.get("content") or ""
        if isinstance(content, list):
            return "\n".join(str(part.get("text", "")) for part in content)
        return str(content)

    @property
    def must_call(self) -> bool:
        """Whether the answer is a tool call."""
        return bool(self.tools) and self.tool_choice not in (None, "none", "auto")

    @property
    def is_bound(self) -> bool:
        return self.must_call or super().is_bound

    def bound_text(self, rng: random.Random, words: list[str]) -> str | None:
        if not self.must_call or self.tools is None:
            return super().bound_text(rng, words)
        functions = [tool.function for tool in self.tools]
        if isinstance(self.tool_choice, dict):
            name = self.tool_choice["function"]["name"]
            functions = [one for one in functions if one.name == name]
        return call_text([one.model_dump() for one in functions], rng, words)


CheckModel = Callable[[str | None], None]
"""Raises `Refusal` for a model that is not served."""
Known = TypeVar("Known", bound=BaseModel)


def read_completion(raw: bytes) -> tuple[CompletionBody, dict[str, Any]]:
    """The body and its fields as they came; raises `Refusal`, as all readers here."""
    fields = read_object(raw)
    check_completion(fields)
    if fields.get("max_tokens", 0) is None:
        fields.pop("max_tokens")
    if fields.get("prompt_embeds") == []:
        fields.pop("prompt_embeds")
    body = validated(CompletionBody, fields, COMPLETION_ORDER)
    if body.prompt_embeds:
        if body.echo:
            raise Refusal("Echo is unsupported with prompt embeds.")
        if body.prompt_logprobs is not None:
            raise Refusal("prompt_logprobs is not compatible with prompt embeds.")
        raise contradiction(
            "You must set `--enable-prompt-embeds` to input `prompt_embeds`.", "prompt_embeds"
        )
    if body.suffix is not None:
        words = "suffix is only supported for models with FIM completion rendering"
        raise Refusal(words, param="suffix")
    if not body.prompts:
        raise Refusal("You must pass at least one prompt")
    return body, fields


def read_chat(
    raw: bytes, check_model: CheckModel, tool_parser: bool = False
) -> tuple[ChatBody, dict[str, Any]]:
    """The same of a chat; tools can only be called where there is a `tool_parser`."""
    fields = read_object(raw)
    check_chat(fields)
    if fields.get("messages", ()) is None:
        raise Refusal("'NoneType' object is not iterable")
    body = validated(ChatBody, fields, CHAT_ORDER)
    check_model(body.model)
    if body.tools and not tool_parser:
        check_tool_choice(body.tool_choice)
    if body.chat_template is None:
        check_media_arguments(fields)
    check_messages(body.messages)
    return body, fields


def read_invoked(raw: bytes) -> dict[str, Any]:
    """The JSON object of `/invocations`, which has words of its own for what is none."""
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as error:
        raise Refusal(f"JSON decode error: {error}", kind=MALFORMED) from error
    except RecursionError as error:
        raise Refusal(str(error), status=500, kind="InternalServerError") from error
    except ValueError as error:
        raise Refusal(str(error)) from error
    if not isinstance(value, dict):
        raise Refusal("list indices must be integers or slices, not str")
    return value


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    try:
        value = _decoder.decode(raw) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decode_slowly(raw)
    if value is None:
        raise malformed([fault_at("missing", ("body",), "Field required", None)])
    if not isinstance(value, dict):
        words = "Input should be a valid dictionary or object to extract fields from"
        raise malformed([fault_at("model_attributes_type", ("body",), words, value)])
    return value


def _decode_slowly(raw: bytes) -> Any:
    """Python's decoder, for its words on what is wrong (and for what it reads beyond JSON)."""
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        fault = fault_at("json_invalid", ("body", error.pos), "JSON decode error", {})
        raise malformed([fault | {"ctx": {"error": error.msg}}]) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Unparsable from error


def validated(kind: type[Known], fields: dict[str, Any], order: Sequence[str] = ()) -> Known:
    """The typed body; raises `Refusal` with all of its faults, by the `order` of fields."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise malformed_fields(error, order) from error


def refuse_beams(body: GenerationBody) -> None:
    """Raises `Refusal` for what would need several answers to be tried at once."""
    if body.use_beam_search:
        if body.stream:
            raise Refusal("Streaming is not currently supported with beam search")
        raise not_simulated("use_beam_search")
