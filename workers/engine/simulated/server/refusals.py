"""vLLM's error answers: `{"error": {message, type, param, code}}`, and FastAPI's `{"detail"}`.

Three kinds exist: what pydantic finds ("Bad Request", every fault listed), what vLLM itself finds
("BadRequestError") and what is not there ("NotFoundError").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from rhizome.render.outcomes import CannotRender, Why

MALFORMED = "Bad Request"
"""The type of errors in the body itself."""
_MESSAGE_KIND = "ChatCompletionDeveloperMessageParam"
_UNRENDERED = {
    Why.REQUEST_TEMPLATE: (
        "Chat template is passed with request, but --trust-request-chat-template is not set. "
        "Refused request with untrusted chat template."
    ),
    Why.MEDIA: "The model is not a multimodal model",
}
_ERRORS_MAX = 10
_INPUT_CHARS_MAX = 200
_INNER = re.compile(r"[\[\]{}()]")
_INNER_NAMES = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "nullable"}) | {
    *("bytes", "responseformat", "structuraltagformat", "legacytagformat")
}


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


class Unparsable(Refusal):
    """The body is no JSON in a way that FastAPI has no words for."""

    def __init__(self) -> None:
        super().__init__("There was an error parsing the body", kind=MALFORMED)

    def body(self) -> bytes:
        return msgspec.json.encode({"detail": self.message})


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


def unrendered(error: CannotRender) -> Refusal:
    """No prompt can be made of the request."""
    return Refusal(_UNRENDERED.get(error.why, f"The prompt cannot be rendered: {error}"))


def not_simulated(name: str) -> Refusal:
    """A field whose meaning would need a model."""
    words = f"{name} is not simulated."
    return Refusal(words, param=name, status=501, kind="NotImplementedError")


def fault_at(kind: str, place: tuple[Any, ...], words: str, value: Any) -> dict[str, Any]:
    """A fault as pydantic lists it."""
    return {"type": kind, "loc": place, "msg": words, "input": value}


def malformed(faults: list[dict[str, Any]]) -> Refusal:
    """Faults as pydantic lists them: each with `type`, `loc`, `msg`, `input`."""
    count = len(faults)
    lines = [f"{count} validation error{'' if count == 1 else 's'}:"]
    lines += [f"  {_described(fault)}" for fault in faults[:_ERRORS_MAX]]
    if count > _ERRORS_MAX:
        lines.append(f"  ...and {count - _ERRORS_MAX} more errors")
    return Refusal("\n".join(lines), param=_place(faults[0]["loc"]), kind=MALFORMED)


def malformed_fields(error: ValidationError, order: Sequence[str] = ()) -> Refusal:
    """What pydantic says of a body whose fields are in this order."""
    return malformed(faults_of(error, order))


def faults_of(error: ValidationError, order: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The faults of a body, the first fields' first."""
    places = {name: place for place, name in enumerate(order)}
    found = error.errors(include_url=False)
    found.sort(key=lambda fault: places.get(str(fault["loc"][0]), len(places)))
    return [dict(fault) | {"loc": ("body", *_place_of(fault))} for fault in found]


def _place_of(fault: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Where a fault is; a message is of the first kind that vLLM tries."""
    place: tuple[int | str, ...] = fault["loc"]
    if len(place) != 2 or place[0] != "messages" or fault["type"].startswith("model_"):
        return place
    if fault["type"] == "string_type":
        return (*place, _MESSAGE_KIND, "content")
    if fault["type"] == "literal_error":
        return (*place, _MESSAGE_KIND, "role")
    if fault["type"] != "missing":
        return (*place, _MESSAGE_KIND)
    return (*place, _MESSAGE_KIND, "role" if "content" in fault["input"] else "content")


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
