"""Bodies of the endpoints that generate nothing: embeddings, scores, ranks, classes.

Engines of such models keep no KV cache between requests that would be worth a detour (most have
none at all), so affinity is off here: these requests go where the least work waits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rhizome.errors import InvalidRequest
from router.http.bodies import EngineBody
from router.http.fields import are_token_ids, check, decode_object, is_positive, is_text, model_of

_PAIRS = (
    ("queries", "documents"),
    ("queries", "items"),
    ("text_1", "text_2"),
    ("data_1", "data_2"),
)


class PoolingBody(EngineBody, frozen=True):
    """Something to pool; its answer comes in one piece."""

    prompt_param = "input"
    usage_on_request = False

    @property
    def stream(self) -> bool:
        """These endpoints do not stream, whatever the body says."""
        return False


def read_embedding(data: bytes) -> PoolingBody:
    """A body of `/v1/embeddings`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    if "messages" not in fields:
        _check_input(fields.get("input"))
    check(fields, "dimensions", is_positive, "a whole number, 1 or more")
    check(fields, "encoding_format", is_text, "'float' or 'base64'")
    return PoolingBody(data, fields, model)


def read_pooling(data: bytes) -> PoolingBody:
    """A body of `/pooling` or `/classify`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    if not any(name in fields for name in ("input", "messages", "data")):
        raise InvalidRequest("send 'input' (text or token ids) or 'messages'", param="input")
    return PoolingBody(data, fields, model)


def read_rerank(data: bytes) -> PoolingBody:
    """A body of `/rerank`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    _demand(fields, "query", _is_given, "what to rank by")
    _demand(fields, "documents", _is_given, "a list of what to rank")
    return PoolingBody(data, fields, model)


def read_score(data: bytes) -> PoolingBody:
    """A body of `/score`, in any of its four spellings; raises as the others do."""
    fields = decode_object(data)
    model = model_of(fields)
    if not any(first in fields and second in fields for first, second in _PAIRS):
        raise InvalidRequest(
            "send 'queries' and 'documents' (or 'text_1' and 'text_2') to score", param="queries"
        )
    return PoolingBody(data, fields, model)


def _demand(
    fields: Mapping[str, Any], name: str, fits: Callable[[Any], bool], meaning: str
) -> None:
    if not fits(fields.get(name)):
        raise InvalidRequest(f"{name!r} is required: {meaning}", param=name)


def _is_given(value: Any) -> bool:
    return isinstance(value, str | list | dict) and bool(value)


def _check_input(given: Any) -> None:
    if isinstance(given, str) and given:
        return
    if isinstance(given, list) and given:
        if are_token_ids(given) or all(isinstance(item, str) for item in given):
            return
        if all(isinstance(item, list) and item for item in given):
            return
        if all(isinstance(item, dict) for item in given):
            return
    raise InvalidRequest(
        "'input' must be text, a list of texts, or token ids; not empty", param="input"
    )
