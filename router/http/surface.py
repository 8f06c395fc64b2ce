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

from router.http import schemas
from router.http.bodies import EngineBody, read_chat, read_completion, read_tokenizer_body
from router.http.messages import read_count, read_messages
from router.http.pooling import read_embedding, read_pooling, read_rerank, read_score
from router.http.responses import read_response
from router.http.schemas import Schema
from router.http.uploads import read_audio
from router.relay.dialect import OPENAI, Dialect
from router.relay.messages import ANTHROPIC
from router.relay.responses import RESPONSES

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
    schema: Schema = field(default_factory=lambda: {"type": "object"})
    """What a body must have, for the documentation; `read` is what decides."""
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
        schema=schemas.CHAT,
        summary="OpenAI's chat completions; `stream` for server-sent events.",
        example={"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
    ),
    Endpoint(
        path="/v1/completions",
        read=json_reader(read_completion),
        schema=schemas.COMPLETION,
        summary="OpenAI's completions; `prompt` as text or token ids.",
        example={"model": "m", "prompt": "Once upon a time", "max_tokens": 16},
    ),
    Endpoint(
        path="/v1/responses",
        read=json_reader(read_response),
        schema=schemas.RESPONSE,
        summary="OpenAI's responses; `previous_response_id` continues a stored one.",
        example={"model": "m", "input": "Hello"},
        dialect=RESPONSES,
    ),
    Endpoint(
        path="/v1/messages",
        read=json_reader(read_messages),
        schema=schemas.MESSAGE,
        summary="Anthropic's messages; errors come in Anthropic's shape.",
        example={
            "model": "m",
            "max_tokens": 16,
            "messages": [{"role": "user", "content": "Hello"}],
        },
        dialect=ANTHROPIC,
    ),
    Endpoint(
        path="/v1/messages/count_tokens",
        read=json_reader(read_count),
        schema=schemas.COUNT,
        summary="How many tokens a prompt of Anthropic's messages has.",
        tag="tokenizer",
        example={"model": "m", "messages": [{"role": "user", "content": "Hello"}]},
        dialect=ANTHROPIC,
    ),
    Endpoint(
        path="/v1/embeddings",
        read=json_reader(read_embedding),
        schema=schemas.EMBEDDING,
        summary="OpenAI's embeddings; `input` as text, texts or token ids.",
        tag="pooling",
        example={"model": "m", "input": ["Hello", "world"]},
    ),
    *(
        Endpoint(
            path=path,
            read=json_reader(read_rerank),
            schema=schemas.RERANK,
            summary="Documents in the order of their relevance to a query (Jina, Cohere).",
            tag="pooling",
            example={"model": "m", "query": "greeting", "documents": ["Hello", "Stone"]},
        )
        for path in ("/v1/rerank", "/v2/rerank", "/rerank")
    ),
    *(
        Endpoint(
            path=path,
            read=json_reader(read_score),
            schema=schemas.SCORE,
            summary="How well texts fit each other, pair by pair.",
            tag="pooling",
            example={"model": "m", "text_1": "greeting", "text_2": ["Hello", "Stone"]},
        )
        for path in ("/v1/score", "/score")
    ),
    Endpoint(
        path="/classify",
        read=json_reader(read_pooling),
        schema=schemas.POOLING,
        summary="The class of each text, by a model that classifies.",
        tag="pooling",
        example={"model": "m", "input": "Hello"},
    ),
    Endpoint(
        path="/pooling",
        read=json_reader(read_pooling),
        schema=schemas.POOLING,
        summary="What a pooling model makes of a text, as it is.",
        tag="pooling",
        example={"model": "m", "input": "Hello"},
    ),
    *(
        Endpoint(
            path=path,
            read=lambda arrival: read_audio(arrival.data, arrival.content_type),
            schema=schemas.AUDIO,
            summary=summary,
            tag="audio",
            example={"model": "m", "file": "(binary)"},
            media_type="multipart/form-data",
        )
        for path, summary in (
            ("/v1/audio/transcriptions", "The words of a recording; the form goes on as it is."),
            ("/v1/audio/translations", "The words of a recording, in English."),
        )
    ),
    Endpoint(
        path="/tokenize",
        read=json_reader(read_tokenizer_body),
        schema=schemas.TOKENIZE,
        summary="Token ids of a prompt or of messages, as the model's engine makes them.",
        tag="tokenizer",
        example={"model": "m", "prompt": "Hello"},
    ),
    Endpoint(
        path="/detokenize",
        read=json_reader(read_tokenizer_body),
        schema=schemas.DETOKENIZE,
        summary="The text of token ids.",
        tag="tokenizer",
        example={"model": "m", "tokens": [1, 2]},
    ),
)

ENDPOINT_OF: Mapping[str, Endpoint] = MappingProxyType({one.path: one for one in ENDPOINTS})
"""By path."""
