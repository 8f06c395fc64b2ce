"""A stored response as a stream: the events that tell it, in the order of OpenAI's API. Pure.

What was streamed is kept of streams from the background only (`StoredResponse.told`). Of any other
response each text comes in one piece, and the numbers are those of this telling: the same at every
asking and at every router, which is what lets a client go on after the last one it has
(`starting_after`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from router.stored.journal import Journal
from router.stored.records import RUNNING, Fields, StoredResponse

_ENDS = {"completed": "response.completed", "failed": "response.failed"}
_OTHER_END = "response.incomplete"
_END_TYPES = frozenset((*_ENDS.values(), _OTHER_END))
_TEXTS = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text"}
"""The field that holds a part's text, by its type."""
_encode = msgspec.json.Encoder().encode


def begun(response: Fields) -> tuple[Fields, ...]:
    """The events with which each telling begins, whether the response has ended or not."""
    unsaid: Fields = {"output": [], "usage": None, "error": None, "incomplete_details": None}
    shown = {**response, **unsaid, "status": "in_progress"}
    return (
        {"type": "response.created", "response": shown},
        {"type": "response.in_progress", "response": shown},
    )


def told(response: Fields) -> Iterator[Fields]:
    """All events of a response that has ended, `begun` included."""
    assert response.get("status") not in RUNNING
    yield from begun(response)
    for output_index, item in enumerate(response.get("output") or ()):
        at = {"output_index": output_index}
        yield {"type": "response.output_item.added", **at, "item": _unsaid(item)}
        yield from _item(item, {**at, "item_id": item.get("id", "")})
        yield {"type": "response.output_item.done", **at, "item": item}
    yield ended(response)


def ended(response: Fields) -> Fields:
    """The event with which a telling ends."""
    return {"type": _ENDS.get(str(response.get("status")), _OTHER_END), "response": response}


def events_of(record: StoredResponse, now_s: float, last: int) -> Iterator[tuple[int, Fields]]:
    """The events of a record that are known by now, and their numbers, where these are higher than
    `last`."""
    response = record.shown(now_s)
    is_running = response.get("status") in RUNNING
    if record.told:
        journal = Journal(record.told)
        yield from journal.after(last)
        if not is_running and record.told[-1].event["type"] not in _END_TYPES:  # it broke off
            yield max(journal.count, last + 1), ended(response)
        return
    for number, event in enumerate(begun(response) if is_running else told(response)):
        if number > last:
            yield number, event


def encoded(event: Fields, sequence_number: int) -> bytes:
    """The event as it is sent."""
    body = _encode({**event, "sequence_number": sequence_number})
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), body)


def _item(item: Fields, at: Fields) -> Iterator[Fields]:
    if item.get("type") == "function_call":
        arguments = item.get("arguments", "")
        yield {"type": "response.function_call_arguments.delta", **at, "delta": arguments}
        done = {"arguments": arguments, "name": item.get("name")}
        yield {"type": "response.function_call_arguments.done", **at, **done}
        return
    for content_index, part in enumerate(item.get("content") or ()):
        yield from _part(part, {**at, "content_index": content_index})


def _part(part: Fields, at: Fields) -> Iterator[Fields]:
    kind = str(part.get("type"))
    name = _TEXTS.get(kind)
    if name is None:
        return
    text = part.get(name, "")
    more = {"logprobs": part.get("logprobs") or []} if kind == "output_text" else {}
    yield {"type": "response.content_part.added", **at, "part": {**part, name: ""}}
    yield {"type": f"response.{kind}.delta", **at, "delta": text, **more}
    yield {"type": f"response.{kind}.done", **at, name: text, **more}
    yield {"type": "response.content_part.done", **at, "part": part}


def _unsaid(item: Fields) -> Fields:
    """The item as it is when nothing of it has been said."""
    empty: dict[str, Any] = {"content": [], "arguments": "", "status": "in_progress"}
    return {**item, **{name: value for name, value in empty.items() if name in item}}
