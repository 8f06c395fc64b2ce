"""vLLM's error answers: `{"error": {message, type, param, code}}`, and FastAPI's `{"detail"}`.

Three kinds exist: what pydantic finds ("Bad Request", every fault listed), what vLLM itself finds
("BadRequestError") and what is not there ("NotFoundError").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import ValidationError

MALFORMED = "Bad Request"
"""The type of errors in the body itself."""
_ERRORS_MAX = 10
_INPUT_CHARS_MAX = 200
_INNER = re.compile(r"[\[\]{}()]")
_INNER_NAMES = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "nullable"})


class Refusal(Exception):
    """The request is answered with an error."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        status: int = 400,
        kind: str = "BadRequestError",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.status = status
        self.kind = kind

    def body(self) -> bytes:
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return msgspec.json.encode({"error": error})


def out_of_range(message: str, param: str, value: Any) -> Refusal:
    """A parameter's value, as vLLM's own validation refuses it."""
    return Refusal(f"{message} (parameter={param}, value={value})", param=param)


def contradiction(message: str, param: str) -> Refusal:
    """A parameter that does not go with the rest of the request."""
    return Refusal(f"{message} (parameter={param})", param=param)


def unknown_model(model: str, served: str) -> Refusal:
    return Refusal(
        f"The model `{model}` does not exist. Valid aliases: {served}.",
        param="model",
        status=404,
        kind="NotFoundError",
    )


def malformed(faults: list[dict[str, Any]]) -> Refusal:
    """Faults as pydantic lists them: each with `type`, `loc`, `msg`, `input`."""
    count = len(faults)
    lines = [f"{count} validation error{'' if count == 1 else 's'}:"]
    lines += [f"  {_described(fault)}" for fault in faults[:_ERRORS_MAX]]
    if count > _ERRORS_MAX:
        lines.append(f"  ...and {count - _ERRORS_MAX} more errors")
    return Refusal("\n".join(lines), param=_place(faults[0]["loc"]), kind=MALFORMED)


def malformed_fields(error: ValidationError) -> Refusal:
    """What pydantic says of a body."""
    return malformed(
        [
            dict(found) | {"loc": ("body", *found["loc"])}
            for found in error.errors(include_url=False)
        ]
    )


def _described(fault: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(fault)
    shown["loc"] = _place(fault["loc"])
    shown["input"] = _summary(fault["input"])
    return shown


def _summary(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = str(value)
    return text if len(text) <= _INPUT_CHARS_MAX else text[:_INPUT_CHARS_MAX] + "...[truncated]"


def _place(place: tuple[Any, ...]) -> str:
    """`body.prompt` without the names of pydantic's own branches."""
    parts = [str(one) for one in place]
    kept = [one for one in parts if not _INNER.search(one) and one.lower() not in _INNER_NAMES]
    return ".".join(kept or parts)
