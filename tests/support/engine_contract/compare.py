"""Where two engines' answers to the same row differ in what a client or a router could see.

Compared always: the status, the kind of content, the keys and types of everything (runs of alike
items count as one: how many tokens share a chunk is a matter of speed), errors but for their
words, token counts, and every event. A row marked `exact` is compared in whole, texts included,
but for ids, times and fingerprints. What a row leaves free is not compared, and no events where the
number of tokens is free.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from tests.support.engine_contract.rows import Row

Answer = dict[str, Any]
_NEVER_EQUAL = frozenset({"id", "created", "system_fingerprint", "root", "input"})
_ALWAYS_EQUAL = frozenset(
    {
        *("object", "model", "index", "role", "type", "code", "param", "version", "parent"),
        *("finish_reason", "stop_reason", "prompt_tokens", "cached_tokens", "completion_tokens"),
        *("created_cache_tokens", "max_model_len", "count", "detail", "owned_by"),
        *("input_tokens", "output_tokens", "cache_write_tokens", "status", "incomplete_details"),
        *("cache_creation_input_tokens", "cache_read_input_tokens", "instructions", "tools"),
        *("tool_choice", "max_output_tokens", "metadata", "top_p", "temperature"),
        "sampling_params",
    }
)
_BY_TOKEN = frozenset({"top_logprobs", "prompt_logprobs"})


def differences(row: Row, expected: Answer, found: Answer) -> list[str]:
    """What differs, in words; nothing when the contract holds."""
    expected, found = (_of(row, _without_words(one)) for one in (expected, found))
    faults: list[str] = []
    if expected["status"] != found["status"]:
        faults.append(f"status {found['status']} instead of {expected['status']}: {found}")
        return faults
    for name, value in expected["headers"].items():
        theirs = found["headers"].get(name)
        if name != "x-request-id" and theirs != value:
            faults.append(f"header {name}: {theirs!r} instead of {value!r}")
    if row.headers.get("X-Request-Id"):
        same = found["headers"].get("x-request-id") == expected["headers"].get("x-request-id")
        faults += [] if same else ["the request's id is not in the headers"]
    if "json" in expected:
        _compare("", expected["json"], found.get("json"), row.exact, faults)
    if "chunks" in expected:
        faults += _stream_differences(row, expected["chunks"], found.get("chunks", []))
    if not row.says_freely and expected.get("events") != found.get("events"):
        faults.append(_event_difference(expected.get("events"), found.get("events")))
    return faults


def _of(row: Row, value: Any) -> Any:
    """What came, without what the model was free to choose."""
    if isinstance(value, list):
        return [_of(row, inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {name: _of(row, inner) for name, inner in value.items() if name not in row.free}


def _without_words(value: Any) -> Any:
    """Completions name likely tokens by keys, which say what an engine said and not its shape."""
    if isinstance(value, list):
        return [_without_words(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: [list((one or {}).values()) for one in inner]
        if name in _BY_TOKEN and isinstance(inner, list) and _are_named(inner)
        else _without_words(inner)
        for name, inner in value.items()
    }


def _are_named(tokens: list[Any]) -> bool:
    return all(one is None or (isinstance(one, dict) and "token" not in one) for one in tokens)


def _compare(at: str, expected: Any, found: Any, exact: bool, faults: list[str]) -> None:
    if _kind(expected) != _kind(found):
        faults.append(f"{at}: {_kind(found)} instead of {_kind(expected)}: {found!r}")
    elif isinstance(expected, dict):
        if list(expected) != list(found) and set(expected) != set(found):
            faults.append(f"{at}: keys {sorted(found)} instead of {sorted(expected)}")
            return
        for name, value in expected.items():
            if name not in _NEVER_EQUAL:
                equal = exact or name in _ALWAYS_EQUAL
                _compare(f"{at}.{name}", value, found[name], equal, faults)
    elif isinstance(expected, list):
        if exact and len(expected) != len(found):
            faults.append(f"{at}: {len(found)} items instead of {len(expected)}")
        for number, (one, other) in enumerate(zip(expected, found, strict=False)):
            _compare(f"{at}[{number}]", one, other, exact, faults)
    elif exact and expected != found:
        faults.append(f"{at}: {found!r} instead of {expected!r}")


def _kind(value: Any) -> str:
    return type(value).__name__


def _stream_differences(row: Row, expected: list[Any], found: list[Any]) -> list[str]:
    faults = []
    for index in sorted({_index(chunk) for chunk in (*expected, *found)}):
        ours, theirs = _shapes(expected, index), _shapes(found, index)
        if not (_within(ours, theirs) or _within(theirs, ours)):
            faults.append(f"chunks of choice {index} look like {theirs} instead of {ours}")
    if row.exact and _said(expected) != _said(found):
        faults.append(f"said {_said(found)} instead of {_said(expected)}")
    if _usage(expected) != _usage(found):
        faults.append(f"usage {_usage(found)} instead of {_usage(expected)}")
    return faults


def _shapes(chunks: list[Any], index: int) -> list[str]:
    """The shapes of one choice's chunks, runs of alike ones as one."""
    own = [str(_shape(chunk)) for chunk in chunks if _index(chunk) == index]
    return [shape for shape, _ in groupby(own)]


def _within(some: list[str], more: list[str]) -> bool:
    """Whether `some` is `more` without some of its middle: tokens may have come together."""
    rest = iter(more)
    return some[:1] == more[:1] and some[-1:] == more[-1:] and all(one in rest for one in some)


def _index(chunk: Any) -> int:
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    return int(choices[0]["index"]) if choices else 1_000_000


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        # What an event is called is part of its shape.
        kind = {"type": value["type"]} if isinstance(value.get("type"), str) else {}
        return {name: _shape(inner) for name, inner in value.items()} | kind
    if isinstance(value, list):
        return [shape for shape, _ in groupby(_shape(inner) for inner in value)]
    return _kind(value)


def _said(chunks: list[Any]) -> dict[int, list[Any]]:
    """For each choice its text, token ids and end."""
    said: dict[int, list[Any]] = {}
    for chunk in chunks:
        for choice in chunk.get("choices", ()) if isinstance(chunk, dict) else ():
            words = said.setdefault(choice["index"], ["", [], None, None])
            words[0] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
            words[1] += choice.get("token_ids") or []
            words[2] = choice["finish_reason"]
            words[3] = choice.get("stop_reason")
    return said


def _usage(chunks: list[Any]) -> Any:
    told = [chunk for chunk in chunks if isinstance(chunk, dict) and not chunk.get("choices")]
    usages = [found for chunk in told if (found := _usage_in(chunk)) is not None]
    return usages[-1] if usages else None


def _usage_in(chunk: dict[str, Any]) -> Any:
    """Where a completion, a message or a response tells it."""
    return chunk.get("usage") or (chunk.get("response") or {}).get("usage")


def _event_difference(expected: Any, found: Any) -> str:
    ours, theirs = expected or [], found or []
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"event {number}: {other} instead of {one}"
    return f"{len(theirs)} events instead of {len(ours)}"
