"""What is kept of a response, and the request that continues it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

Fields = dict[str, Any]

BEAT_S = 2.0
"""How often a router says of a response that it works on it."""
RUNNING = frozenset({"queued", "in_progress"})
_NOT_FOR_ENGINES = ("previous_response_id", "background", "store")


class Run(msgspec.Struct, array_like=True):
    """Events in a row that differ in their delta alone: in most cases a single one."""

    event: Fields
    """Without its number, and without its delta if that is a text."""
    deltas: list[str] = msgspec.field(default_factory=list)
    """One for each event; empty for an event that has none."""


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response and the conversation that it answers."""

    response: Fields
    """OpenAI's response object."""
    items: list[Any]
    """What the engine was given: earlier items, answers among them, and the request's own."""
    beats_until_s: float | None = None
    """Unix time until which a router promises to work on it; None: nobody works on it."""
    told: list[Run] = msgspec.field(default_factory=list)
    """What was streamed so far, of a response that is streamed from the background."""

    @property
    def status(self) -> str:
        return str(self.response.get("status"))

    def shown(self, now_s: float) -> Fields:
        """The response object; one whose router has gone silent has failed."""
        if self.status in RUNNING and (self.beats_until_s or 0.0) < now_s:
            error = {"code": "server_error", "message": "the router that worked on it is gone"}
            return {**self.response, "status": "failed", "error": error}
        return self.response

    def with_response(self, **changes: Any) -> StoredResponse:
        """The same with other fields of the response object."""
        return msgspec.structs.replace(self, response={**self.response, **changes})


def items_of(asked: Any) -> list[Any]:
    """A request's input as items."""
    if isinstance(asked, str):
        return [{"type": "message", "role": "user", "content": asked}]
    return list(asked)


def conversation(previous: StoredResponse | None, asked: Any) -> list[Any]:
    """All items that an engine needs to answer what is asked."""
    own = items_of(asked)
    if previous is None:
        return own
    return [*previous.items, *previous.response.get("output", ()), *own]


def for_engine(fields: Mapping[str, Any], response_id: str, items: list[Any] | None) -> Fields:
    """The request as an engine takes it, which keeps nothing itself."""
    changed = {name: value for name, value in fields.items() if name not in _NOT_FOR_ENGINES}
    changed |= {"store": False, "request_id": response_id}
    if items is not None:
        changed["input"] = items
    return changed


def finished(response: Mapping[str, Any], asked: Mapping[str, Any], response_id: str) -> Fields:
    """An engine's response as it is kept: with what the engine was not told."""
    return {
        **response,
        "id": response_id,
        "background": asked.get("background") is True,
        "previous_response_id": asked.get("previous_response_id"),
        "store": True,
    }


def queued(asked: Mapping[str, Any], model: str, response_id: str, created_at: int) -> Fields:
    """The response object of work that has not begun."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "queued",
        "background": asked.get("background") is True,
        "model": model,
        "output": [],
        "instructions": asked.get("instructions"),
        "metadata": asked.get("metadata"),
        "previous_response_id": asked.get("previous_response_id"),
        "parallel_tool_calls": asked.get("parallel_tool_calls", True),
        "temperature": asked.get("temperature"),
        "top_p": asked.get("top_p"),
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools") or [],
        "store": True,
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }
