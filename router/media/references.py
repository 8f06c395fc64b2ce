"""Finds the URLs of media in a body, in whose API ever, and puts data in their place. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

_PLACES = frozenset(
    {
        "data",
        "data_1",
        "data_2",
        "documents",
        "input",
        "items",
        "messages",
        "queries",
        "query",
        "system",
        "text_1",
        "text_2",
    }
)
"""Fields of a body that hold what a model reads."""
_PLAIN = frozenset({"content", "name", "role", "tool_call_id"})
"""What a message may have that is text alone."""
_KEYS = frozenset({"audio_url", "file_url", "image_url", "video_url"})
_DATA = "data:"


def may_refer(fields: Mapping[str, Any], *, beside: str | None = None) -> bool:
    """False only if no URL of media can be in the body, `beside` one field that has none: much
    cheaper than to look, since the text of plain messages is not read."""
    for name in _PLACES.intersection(fields):
        value = fields[name]
        if name != beside and value is not None and _may_refer(value):
            return True
    return False


def _may_refer(value: Any) -> bool:
    if not isinstance(value, list):
        return not isinstance(value, str)
    for item in value:
        if isinstance(item, dict):
            if not isinstance(item.get("content"), str):
                return True
            if not (len(item) == 2 and "role" in item) and not item.keys() <= _PLAIN:
                return True
        elif not isinstance(item, str | int):
            return True
    return False


def references(fields: Mapping[str, Any]) -> list[str]:
    """The URLs of media, in order, each once; those that hold their data themselves left out."""
    found: dict[str, None] = {}

    def note(url: str) -> str:
        found[url] = None
        return url

    replaced(fields, note)
    return list(found)


def replaced(fields: Mapping[str, Any], replace: Callable[[str], str]) -> dict[str, Any]:
    """The body with each URL of media replaced; the given one is not changed."""
    return {
        name: _replaced(value, replace) if name in _PLACES else value
        for name, value in fields.items()
    }


def _replaced(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_replaced(item, replace) for item in value]
    if not isinstance(value, dict):
        return value
    return dict(_pairs(value, replace))


def _pairs(value: dict[str, Any], replace: Callable[[str], str]) -> Iterator[tuple[str, Any]]:
    is_source = value.get("type") == "url"
    for name, item in value.items():
        if name in _KEYS or (is_source and name == "url"):
            yield name, _reference(item, replace)
        else:
            yield name, _replaced(item, replace)


def _reference(value: Any, replace: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return value if value[: len(_DATA)].lower() == _DATA else replace(value)
    if isinstance(value, dict) and isinstance(value.get("url"), str):
        return {**value, "url": _reference(value["url"], replace)}
    return _replaced(value, replace)
