"""`/tokenize` and `/detokenize` as vLLM 0.32 reads them.

A body of `/tokenize` is a text or a conversation. One that fits both is what more of its fields
speak for.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from workers.engine.simulated.server.bodies import (
    INT64_MAX,
    Body,
    Message,
    Tool,
    read_object,
    validated,
)
from workers.engine.simulated.server.refusals import Refusal, faults_of, malformed

_FLAGS = frozenset({"add_generation_prompt", "add_special_tokens", "continue_final_message"})
_NOT_READ = ("truncate_prompt_tokens", "truncation_side")
_FIELDS_OF_MESSAGES = 2
"""A role and a content."""


class TokenizeBody(Body):
    """`/tokenize` of a text."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool | None = False


class TokenizeChatBody(Body):
    """`/tokenize` of a conversation."""

    messages: list[Message]
    add_generation_prompt: bool = True
    return_token_strs: bool | None = False
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    media_io_kwargs: dict[str, dict[str, Any]] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None


class DetokenizeBody(Body):
    """`/detokenize`."""

    tokens: list[Annotated[int, Field(ge=0, le=INT64_MAX)]]


Known = TypeVar("Known", bound=Body)


def read_tokenize(raw: bytes) -> tuple[TokenizeBody | TokenizeChatBody, dict[str, Any]]:
    """The body and its fields as they came; raises `Refusal`, as all readers here."""
    fields = read_object(raw)
    if fields.get("continue_final_message") and fields.get("add_generation_prompt"):
        raise Refusal(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    text, chat = _tried(TokenizeBody, fields), _tried(TokenizeChatBody, fields)
    if isinstance(text, ValidationError):
        if isinstance(chat, ValidationError):
            raise malformed([*faults_of(text), *faults_of(chat)])
    elif isinstance(chat, ValidationError) or _weight(text) >= _weight(chat):
        return text, fields
    given = chat.model_fields_set & _FLAGS
    fields |= {name: getattr(chat, name) for name in given}
    for name in _NOT_READ:
        fields.pop(name, None)
    if fields.get("tools") == []:
        fields.pop("tools")
    return chat, fields


def read_detokenize(raw: bytes) -> DetokenizeBody:
    return validated(DetokenizeBody, read_object(raw))


def _tried(kind: type[Known], fields: dict[str, Any]) -> Known | ValidationError:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        return error


def _weight(body: TokenizeBody | TokenizeChatBody) -> int:
    """How many of the fields that it knows are given, those of messages among them."""
    given = len(body.model_fields_set & type(body).model_fields.keys())
    if isinstance(body, TokenizeChatBody):
        given += _FIELDS_OF_MESSAGES * len(body.messages)
    return given
