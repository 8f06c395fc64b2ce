"""Requests as bytes: what is sent for one request of a workload."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from loadtest.prompts import PromptWriter
from loadtest.workloads.requests import Api, Role, Segment, TracedRequest

ANSWERS_MAX = 50_000
"""Most real answers kept for later turns; the oldest are forgotten first."""
_EXACT = {"ignore_eos": True, "temperature": 0.0}


@dataclass(frozen=True)
class Body:
    """One request, ready to be sent."""

    path: str
    data: bytes
    prompt_tokens: int | None
    """How many prompt tokens the server must count; None where a template adds its own."""


class Answers(OrderedDict[int, str]):
    """What the model really said, by answer key; bounded."""

    def keep(self, key: int, text: str) -> None:
        self[key] = text
        while len(self) > ANSWERS_MAX:
            self.popitem(last=False)


@dataclass(frozen=True)
class BodyWriter:
    """Writes the bodies of one run."""

    writer: PromptWriter
    model: str
    api: Api
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields laid over the usual ones; null removes one."""
    answers: Answers | None = None
    """Real answers, where later turns are to hold them."""

    def write(self, request: TracedRequest) -> Body:
        """Streaming, with usage, and exactly `output_len` tokens of answer."""
        prompt, counted = self._prompt(request.segments)
        fields: dict[str, Any] = {
            "model": self.model,
            **prompt,
            "max_tokens": request.output_len,
            "stream": True,
            "stream_options": {"include_usage": True},
            **_EXACT,
            **self.extra,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        path = "/v1/chat/completions" if self.api is Api.CHAT else "/v1/completions"
        return Body(path, msgspec.json.encode(given), counted)

    def answers_known(self, request: TracedRequest) -> tuple[int, int]:
        """How many answers of the prompt are real, and how many there are."""
        keys = [one.key for one in request.segments if one.role is Role.ASSISTANT]
        return sum(key in (self.answers or ()) for key in keys), len(keys)

    def _prompt(self, segments: Sequence[Segment]) -> tuple[dict[str, Any], int | None]:
        if self.api is Api.CHAT:
            return {"messages": self.writer.messages(segments, self.answers or {})}, None
        tokens = sum(segment.tokens for segment in segments)
        if self.api is Api.IDS:
            return {"prompt": msgspec.Raw(self.writer.ids_json(segments))}, tokens
        return {"prompt": self.writer.text(segments)}, tokens
