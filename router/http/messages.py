"""Bodies of Anthropic's API: messages, and the count of their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rhizome.errors import InvalidRequest
from rhizome.render.messages import chat_of_messages
from router.http.bodies import ChatBody, EngineBody, check_messages
from router.http.fields import (
    check,
    decode_object,
    is_flag,
    is_list,
    is_not_negative,
    is_object,
    is_positive,
    is_text,
    model_of,
)


class MessagesBody(ChatBody, frozen=True):
    """A message to generate. Its streams tell their usage without being asked."""

    usage_on_request = False

    def chat(self) -> Mapping[str, Any]:
        return chat_of_messages(self.fields)

    @property
    def session(self) -> str | None:
        """Anthropic's clients put the user's id into the metadata."""
        user = (self.fields.get("metadata") or {}).get("user_id")
        return user[:256] if isinstance(user, str) and user else super().session


class CountBody(EngineBody, frozen=True):
    """Messages whose tokens shall be counted: no worker answers it better than another."""

    prompt_param = "messages"
    usage_on_request = False


def read_messages(data: bytes) -> MessagesBody:
    """A body of `/v1/messages`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = _checked(fields)
    if fields.get("max_tokens") is None:
        raise InvalidRequest(
            "'max_tokens' is required: the most tokens to generate", param="max_tokens"
        )
    check(fields, "max_tokens", is_positive, "a whole number, 1 or more")
    check(fields, "stream", is_flag, "true or false")
    check(fields, "temperature", is_not_negative, "a number, 0 or more")
    check(fields, "top_p", is_not_negative, "a number between 0 and 1")
    check(fields, "stop_sequences", is_list, "a list of texts")
    check(fields, "metadata", is_object, "an object")
    check(fields, "cache_salt", is_text, "text")
    return MessagesBody(data, fields, model)


def read_count(data: bytes) -> CountBody:
    """A body of `/v1/messages/count_tokens`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    return CountBody(data, fields, _checked(fields))


def _checked(fields: Mapping[str, Any]) -> str:
    """The model, once what both bodies have is found to be readable."""
    model = model_of(fields)
    check_messages(fields.get("messages"))
    check(fields, "system", _is_text_or_blocks, "text or a list of blocks")
    check(fields, "tools", is_list, "a list of tools")
    return model


def _is_text_or_blocks(value: Any) -> bool:
    return isinstance(value, str | list)
