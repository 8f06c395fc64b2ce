"""The endpoints that an engine answers, one row each: what is read, where it goes, how it answers.

All rows are served by one path through the router (`router.service`): key, body, prompt, worker,
relay. What is not in this table, and no route of the FastAPI app, is 404 and never reaches an
engine. The app takes its documentation of these endpoints from here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from router.http.bodies import EngineBody, read_chat, read_completion, read_tokenizer_body
from router.relay.dialect import OPENAI, Dialect

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a reader gets: the whole body, within its bound, and what it is said to be."""

    data: bytes
    content_type: str
    """The header as sent, parameters included."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One POST endpoint. Its path is also the metric label `route`."""

    path: str
    """Matched as it is, without parameters."""
    read: Callable[[Arrival], EngineBody]
    """The body, typed where the router looks; its class says what the prompt is (see
    `router.renderings`). Raises `InvalidRequest` or one of its kinds."""
    summary: str
    tag: str = "generation"
    """The section of the documentation."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """A body for the documentation."""
    dialect: Dialect = OPENAI
    media_type: str = JSON
    """The only type of body that is taken; anything else is 415."""
    engine_path: str = ""
    """Where the engine has it; empty: at the same path."""
    description: str = ""


def json_reader(read: Callable[[bytes], EngineBody]) -> Callable[[Arrival], EngineBody]:
    """A reader of JSON bodies, which needs the bytes alone."""
    return lambda arrival: read(arrival.data)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        path="/v1/chat/completions",
        read=json_reader(read_chat),
        summary="OpenAI's chat completions; `stream` for server-sent events.",
        example={"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    Endpoint(
        path="/v1/completions",
        read=json_reader(read_completion),
        summary="OpenAI's completions; `prompt` as text or token ids.",
        example={"model": "m", "prompt": "Once upon a time", "max_tokens": 16},
    ),
    Endpoint(
        path="/tokenize",
        read=json_reader(read_tokenizer_body),
        summary="Token ids of a prompt or of messages, as the model's engine makes them.",
        tag="tokenizer",
        example={"model": "m", "prompt": "Hello"},
    ),
    Endpoint(
        path="/detokenize",
        read=json_reader(read_tokenizer_body),
        summary="The text of token ids.",
        tag="tokenizer",
        example={"model": "m", "tokens": [1, 2]},
    ),
)

ENDPOINT_OF: Mapping[str, Endpoint] = MappingProxyType({one.path: one for one in ENDPOINTS})
"""By path."""
