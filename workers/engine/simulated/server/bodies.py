"""Request bodies as vLLM 0.32 reads them: the same fields, defaults, refusals, and their order.

Fields that change nothing here (penalties, `user`, what is unknown) are accepted and ignored;
those that would need a model (a prompt's log probabilities, constrained output, media) are refused
in words.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workers.engine.simulated.server.refusals import (
    Refusal,
    contradiction,
    malformed,
    malformed_fields,
)

_INT64_MAX = 2**63 - 1
_STOP_STRINGS_MAX = 1024
_PROMPTS_MAX = 1024
_decoder = msgspec.json.Decoder()

TokenId = Annotated[int, Field(ge=0)]
Stop = str | Annotated[list[str], Field(max_length=_STOP_STRINGS_MAX)] | None


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str | None = None


class StreamOptions(BaseModel):
    """`stream_options`."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class GenerationBody(_Body):
    """What chat and completion bodies share."""

    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    n: int | None = 1
    seed: int | None = Field(None, ge=-_INT64_MAX - 1, le=_INT64_MAX)
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
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=_INT64_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    echo: bool | None = False
    prompt_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    priority: int = Field(0, ge=-_INT64_MAX - 1, le=_INT64_MAX)
    request_id: str | None = None
    session_id: str | None = None
    cache_salt: str | None = None
    return_token_ids: bool | None = None
    use_beam_search: bool = False

    @property
    def output_limit(self) -> int | None:
        """The tokens asked for, None for as many as fit."""
        return self.max_tokens

    @property
    def logprobs_asked(self) -> int | None:
        """How many candidates are shown for each token; None for no log probabilities at all."""
        return None

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
    logprobs: int | None = None

    @property
    def logprobs_asked(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several; each a text or token ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        return list(prompt or ())


class ChatBody(GenerationBody):
    """`/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = "none"
    add_generation_prompt: bool = True
    continue_final_message: bool = False

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def logprobs_asked(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeBody(_Body):
    """`/tokenize` of a text."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatBody(_Body):
    """`/tokenize` of a conversation."""

    messages: list[dict[str, Any]]
    return_token_strs: bool | None = False


class DetokenizeBody(_Body):
    """`/detokenize`."""

    tokens: list[Annotated[int, Field(ge=0, le=_INT64_MAX)]]


Known = TypeVar("Known", bound=BaseModel)


def read_completion(raw: bytes) -> tuple[CompletionBody, dict[str, Any]]:
    """The body and its fields as they came; raises `Refusal`, as all readers here."""
    fields = read_object(raw)
    _check_before(fields)
    if fields.get("prompt") in (None, "") and not fields.get("prompt_embeds"):
        raise contradiction(
            "Either prompt or prompt_embeds must be provided and non-empty.", "prompt"
        )
    if fields.get("max_tokens", 0) is None:
        fields.pop("max_tokens")
    body = validated(CompletionBody, fields)
    if body.prompt is None or body.suffix is not None:
        raise Refusal(
            "Embeddings and suffixes are not simulated.", status=501, kind="NotImplemented"
        )
    if len(body.prompts) > _PROMPTS_MAX:
        raise contradiction(f"At most {_PROMPTS_MAX} prompts fit into one request.", "prompt")
    if not body.prompts:
        raise Refusal("You must pass at least one prompt")
    _refuse_what_needs_a_model(body, body.logprobs is not None and bool(body.echo))
    return body, fields


def read_chat(raw: bytes) -> tuple[ChatBody, dict[str, Any]]:
    fields = read_object(raw)
    _check_before(fields)
    _check_tools(fields)
    if fields.get("top_logprobs") and not fields.get("logprobs"):
        words = "when using `top_logprobs`, `logprobs` must be set to true."
        raise contradiction(words, "top_logprobs")
    if fields.get("continue_final_message") and fields.get("add_generation_prompt"):
        raise Refusal(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    body = validated(ChatBody, fields)
    check_messages(body.messages)
    _refuse_what_needs_a_model(body)
    if body.tools:
        _check_named_tool(body.tools, body.tool_choice)
        check_tool_choice(body.tool_choice)
    return body, fields


def read_tokenize(raw: bytes) -> tuple[TokenizeBody | TokenizeChatBody, dict[str, Any]]:
    fields = read_object(raw)
    if "messages" in fields:
        return validated(TokenizeChatBody, fields), fields
    if "prompt" not in fields:
        missing = {"type": "missing", "msg": "Field required", "input": fields}
        raise malformed([missing | {"loc": ("body", name)} for name in ("prompt", "messages")])
    return validated(TokenizeBody, fields), fields


def read_detokenize(raw: bytes) -> DetokenizeBody:
    return validated(DetokenizeBody, read_object(raw))


def read_object(raw: bytes) -> dict[str, Any]:
    """The JSON object of a body."""
    if not raw:
        raise malformed([_fault("missing", ("body",), "Field required", None)])
    try:
        value = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = _decode_slowly(raw)
    if not isinstance(value, dict):
        words = "Input should be a valid dictionary or object to extract fields from"
        raise malformed([_fault("model_attributes_type", ("body",), words, value)])
    return value


def _decode_slowly(raw: bytes) -> Any:
    """Python's decoder, for its words on what is wrong (and for what it reads beyond JSON)."""
    try:
        return json.loads(raw)
    except json.JSONDecodeError as error:
        fault = _fault("json_invalid", ("body", error.pos), "JSON decode error", {})
        raise malformed([fault | {"ctx": {"error": error.msg}}]) from error
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Refusal(
            "There was an error parsing the body", param=None, kind="Bad Request"
        ) from error


def validated(kind: type[Known], fields: dict[str, Any]) -> Known:
    """The typed body; raises `Refusal` with all of its faults."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise malformed_fields(error) from error


def _fault(kind: str, place: tuple[Any, ...], words: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "loc": place, "msg": words, "input": value}


def check_salt(fields: dict[str, Any]) -> None:
    """Comes before the types of fields are looked at."""
    salt = fields.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        words = "Parameter 'cache_salt' must be a non-empty string if provided."
        raise contradiction(words, "cache_salt")


def _check_before(fields: dict[str, Any]) -> None:
    """vLLM's checks that come before the types of fields are looked at."""
    check_salt(fields)
    if fields.get("stream_options") and not fields.get("stream"):
        words = "Stream options can only be defined when `stream=True`."
        raise contradiction(words, "stream_options")


def _check_tools(fields: dict[str, Any]) -> None:
    tools, choice = fields.get("tools"), fields.get("tool_choice")
    if tools == []:
        raise contradiction(
            "`tools` must not be an empty array. "
            "Either provide at least one tool or omit the field entirely.",
            "tools",
        )
    if "tool_choice" not in fields and tools:
        fields["tool_choice"] = "auto"
    elif choice not in (None, "none") and tools is None:
        raise contradiction("When using `tool_choice`, `tools` must be set.", "tool_choice")


def check_tool_choice(choice: str | dict[str, Any] | None) -> None:
    """Tool calls need a parser, and this engine was started without one."""
    if choice == "auto":
        raise Refusal(
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        )
    if choice == "required":
        raise Refusal('tool_choice="required" requires --tool-call-parser to be set')
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        raise Refusal(f'tool_choice=function "{name}" requires --tool-call-parser to be set')


def _check_named_tool(tools: list[dict[str, Any]], choice: Any) -> None:
    if isinstance(choice, dict):
        name = (choice.get("function") or {}).get("name")
        if name not in [(tool.get("function") or {}).get("name") for tool in tools]:
            raise contradiction(
                "The tool specified in `tool_choice` does not match any of the specified `tools`",
                "tool_choice",
            )


def check_messages(messages: list[dict[str, Any]]) -> None:
    """There are some, and each has somebody who says it."""
    if not messages:
        raise Refusal(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    for number, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            kind = "ChatCompletionDeveloperMessageParam"
            place = ("body", "messages", number, kind, "role")
            raise malformed([_fault("missing", place, "Field required", message)])


def _refuse_what_needs_a_model(body: GenerationBody, of_prompt: bool = False) -> None:
    asked = {
        "logprobs": of_prompt,
        "prompt_logprobs": body.prompt_logprobs is not None,
        "structured_outputs": body.structured_outputs is not None,
        "use_beam_search": body.use_beam_search,
        "response_format": (body.response_format or {}).get("type", "text") != "text",
    }
    for name, wanted in asked.items():
        if wanted:
            words = f"{name} is not simulated."
            raise Refusal(words, param=name, status=501, kind="NotImplementedError")
