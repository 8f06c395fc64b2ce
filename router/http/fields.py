"""Single fields of request bodies: decoded, checked, and named when they are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rhizome.errors import InvalidRequest, MalformedBody, UnsupportedMediaType

TOKENS_MAX = 4 * 2**20
"""Most token ids in one prompt."""
_TOKEN_ID_MAX = 2**31 - 1
_GZIP = b"\x1f\x8b"
_decoder = msgspec.json.Decoder()


def decode_object(data: bytes) -> dict[str, Any]:
    """A body as an object; raises `MalformedBody`, or `UnsupportedMediaType` if compressed."""
    try:
        content = _decoder.decode(data)
    except UnicodeDecodeError as error:
        raise MalformedBody(f"the body is not valid UTF-8: {error.reason}") from error
    except msgspec.DecodeError as error:
        if data.startswith(_GZIP):
            raise UnsupportedMediaType("the body is compressed; send it as it is") from error
        raise MalformedBody(f"the body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise MalformedBody("the body is nested too deep; send fewer levels") from error
    if not isinstance(content, dict):
        raise MalformedBody(f"the body must be a JSON object, not {kind_of(content)}")
    return content


def model_of(fields: Mapping[str, Any]) -> str:
    """The model asked for; raises `InvalidRequest`."""
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(
            "'model' must be the name of a model; GET /v1/models lists them", param="model"
        )
    return model


def check(
    fields: Mapping[str, Any],
    name: str,
    fits: Callable[[Any], bool],
    wanted: str,
    *,
    within: str = "",
) -> None:
    """Raises `InvalidRequest` unless the field fits, is null or is absent."""
    value = fields.get(name)
    if value is not None and not fits(value):
        raise InvalidRequest(
            f"'{within}{name}' must be {wanted}, not {kind_of(value)}", param=within + name
        )


def is_flag(value: Any) -> bool:
    """true or false."""
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_object(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def is_list(value: Any) -> bool:
    """A list."""
    return isinstance(value, list)


def is_not_negative(value: Any) -> bool:
    """A finite number, 0 or more."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def is_count(value: Any) -> bool:
    """A whole number, 0 or more, also if it is written as a float."""
    if type(value) is int:
        return value >= 0
    return is_not_negative(value) and value == int(value)


def is_positive(value: Any) -> bool:
    """A whole number, 1 or more."""
    return is_count(value) and value >= 1


def are_token_ids(items: list[Any]) -> bool:
    """Whether the list can be a prompt of token ids."""
    return len(items) <= TOKENS_MAX and all(
        type(item) is int and 0 <= item <= _TOKEN_ID_MAX for item in items
    )


def kind_of(value: Any) -> str:
    """The JSON name of a value's type, and the value itself if it is a short one."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value:.6g}"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
