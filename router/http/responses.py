"""Bodies of `/v1/responses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rhizome.errors import InvalidRequest
from rhizome.render.responses import chat_of_response
from router.http.bodies import ChatBody
from router.http.fields import (
    check,
    decode_object,
    is_flag,
    is_list,
    is_not_negative,
    is_object,
    is_positive,
    is_text,
    kind_of,
    model_of,
)


class ResponseBody(ChatBody, frozen=True):
    """A response to generate. Its streams tell their usage without being asked."""

    prompt_param = "input"
    usage_on_request = False

    def chat(self) -> Mapping[str, Any]:
        return chat_of_response(self.fields)

    @property
    def max_tokens(self) -> int | None:
        asked = self.fields.get("max_output_tokens")
        return None if asked is None else int(asked)


def read_response(data: bytes) -> ResponseBody:
    """A body of `/v1/responses`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    _check_input(fields.get("input"))
    for name in ("stream", "store", "background"):
        check(fields, name, is_flag, "true or false")
    for name in ("instructions", "previous_response_id", "cache_salt"):
        check(fields, name, is_text, "text")
    check(fields, "max_output_tokens", is_positive, "a whole number, 1 or more")
    check(fields, "temperature", is_not_negative, "a number, 0 or more")
    check(fields, "top_p", is_not_negative, "a number between 0 and 1")
    check(fields, "tools", is_list, "a list of tools")
    check(fields, "metadata", is_object, "an object")
    check(fields, "reasoning", is_object, "an object, e.g. {'effort': 'low'}")
    if fields.get("conversation") is not None:  # an engine would answer without it
        raise InvalidRequest(
            "there are no conversations here; continue a response with 'previous_response_id'",
            param="conversation",
        )
    return ResponseBody(data, fields, model)


def _check_input(asked: Any) -> None:
    if isinstance(asked, str):
        return
    if not isinstance(asked, list) or not asked:
        raise InvalidRequest(
            f"'input' must be text or a list of items, not {kind_of(asked)}", param="input"
        )
    for index, item in enumerate(asked):
        if not isinstance(item, dict):
            raise InvalidRequest(
                f"item {index} of 'input' must be an object, not {kind_of(item)}",
                param=f"input.{index}",
            )
