"""What bodies must have, for the API's document: required fields, and types where we check them.

The engine knows many more fields; all may be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_NAME: Schema = {"type": "string", "minLength": 1}
_COUNT: Schema = {"type": "integer", "minimum": 1}
_FLAG: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_TEXTS: Schema = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ]
}
_IDS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PROMPT: Schema = {"anyOf": [*_TEXTS["anyOf"], _IDS]}
_MESSAGES: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"enum": ["system", "user", "assistant"]},
            "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": {}}]},
        },
    },
}
_SAMPLING: Schema = {
    "stream": _FLAG,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    "seed": {"type": "integer"},
    "n": _COUNT,
}


def _body(*required: str, **properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["model", *required],
        "properties": {"model": _NAME, **properties},
    }


CHAT = _body("messages", messages=_MESSAGES, max_completion_tokens=_COUNT, **_SAMPLING)
COMPLETION = _body("prompt", prompt=_PROMPT, max_tokens=_COUNT, **_SAMPLING)
RESPONSE = _body(
    "input",
    input={"type": "string"},
    instructions={"type": "string"},
    previous_response_id={"type": "string"},
    max_output_tokens=_COUNT,
    store=_FLAG,
    stream=_FLAG,
)
MESSAGE = _body("messages", "max_tokens", messages=_MESSAGES, max_tokens=_COUNT, stream=_FLAG)
COUNT = _body("messages", messages=_MESSAGES)
EMBEDDING = _body("input", input=_PROMPT, dimensions=_COUNT)
RERANK = _body("query", "documents", query=_NAME, documents=_TEXTS["anyOf"][1], top_n=_COUNT)
SCORE = _body("text_1", "text_2", text_1=_TEXTS, text_2=_TEXTS)
POOLING = _body("input", input=_PROMPT)
AUDIO = _body(
    "file",
    file={"type": "string", "format": "binary"},
    language={"type": "string"},
    stream=_FLAG,
)
TOKENIZE = _body("prompt", prompt={"type": "string"})
DETOKENIZE = _body("tokens", tokens=_IDS)
