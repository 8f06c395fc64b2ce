"""The items of a request for a response, as the types of OpenAI and vLLM 0.32 read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from pydantic_core import PydanticKnownError

from workers.engine.simulated.server.refusals import Refusal, out_of_range

_ROLES = frozenset({"assistant", "developer", "system", "user"})
_PARTS = frozenset({"input_file", "input_image", "input_text"})
_SAID_PARTS = frozenset({"output_text", "refusal"})
Item = Mapping[str, Any]


def fitting_items(items: str | list[Any]) -> str | list[Any]:
    """The items, if each has a known form."""
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, Mapping) or not _fits(item):
            raise PydanticKnownError("string_type")
    return items


def check_supported(items: str | list[Any]) -> None:
    """Raises `Refusal` for items that have a form and no meaning here."""
    for item in items if isinstance(items, list) else ():
        if item.get("type") == "item_reference":
            words = "Unsupported input item type: item_reference (parameter=input)"
            raise Refusal(words, param="input")
        content = item.get("content")
        for part in content if isinstance(content, list) else ():
            if part.get("type") == "input_file":
                words = "Unsupported chat content part type: 'input_file'."
                raise out_of_range(words, "type", "input_file")


def _fits(item: Item) -> bool:
    fits = _FORMS.get(item.get("type") or "message")
    return fits is not None and fits(item)


def _is_message(item: Item) -> bool:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        return False
    if not isinstance(content, list):
        return isinstance(content, str)
    was_said = role == "assistant" and "id" in item and "status" in item
    known = _SAID_PARTS if was_said else _PARTS
    return all(isinstance(part, Mapping) and part.get("type") in known for part in content)


def _has(*names: str) -> Callable[[Item], bool]:
    """Whether these fields are texts."""
    return lambda item: all(isinstance(item.get(name), str) for name in names)


def _is_result(item: Item) -> bool:
    return isinstance(item.get("call_id"), str) and isinstance(item.get("output"), str | list)


def _is_reasoning(item: Item) -> bool:
    return isinstance(item.get("summary", []), list)


_FORMS: Mapping[Any, Callable[[Item], bool]] = MappingProxyType(
    {
        "message": _is_message,
        "reasoning": _is_reasoning,
        "function_call": _has("call_id", "name", "arguments"),
        "function_call_output": _is_result,
        "custom_tool_call": _has("call_id", "name"),
        "custom_tool_call_output": _is_result,
        "item_reference": _has("id"),
    }
)
