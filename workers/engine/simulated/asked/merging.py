"""Two JSON schemas as one that asks for both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Schema = Any


def merged(one: Schema, other: Schema) -> Schema:
    """What satisfies both; contradictions are left to whoever makes an instance."""
    if one is False or other is False:
        return False
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other if one is True else one
    whole = dict(one)
    for name, value in other.items():
        whole[name] = _JOINS.get(name, _later)(whole[name], value) if name in whole else value
    return whole


def _later(_: Any, value: Any) -> Any:
    return value


def _properties(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = dict(one)
    for name, schema in other.items():
        both[name] = merged(both[name], schema) if name in both else schema
    return both


def _types(one: Any, other: Any) -> list[Any]:
    ours, theirs = (value if isinstance(value, list) else [value] for value in (one, other))
    if "number" in ours and "integer" in theirs:
        ours = [*ours, "integer"]
    if "number" in theirs and "integer" in ours:
        theirs = [*theirs, "integer"]
    return [kind for kind in ours if kind in theirs]


def _shared(one: list[Any], other: list[Any]) -> list[Any]:
    return [value for value in one if value in other]


def _both(one: list[Any], other: list[Any]) -> list[Any]:
    return [*one, *(value for value in other if value not in one)]


_JOINS: dict[str, Callable[[Any, Any], Any]] = {
    "properties": _properties,
    "patternProperties": _properties,
    "items": merged,
    "additionalProperties": merged,
    "type": _types,
    "enum": _shared,
    "required": _both,
    "allOf": _both,
} | {
    name: join
    for join, names in (
        (max, ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")),
        (min, ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")),
    )
    for name in names
}
