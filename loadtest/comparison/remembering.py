"""Prompts rendered once for all simulated workers of a process.

Some routers ask every worker how it would render a prompt. A real fleet does that on as many
machines at once; here one process stands for all of them and would pay as many times, one after
the other. The prompt is rendered once instead, and that time is what one worker needs: who asks
for it meanwhile, from another thread, waits for the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Any

import msgspec

from rhizome.render.renderer import BUDGET_S, Renderer

_PROMPTS_MAX = 64
_DECIDING: Mapping[str, Any] = MappingProxyType(
    {
        "messages": None,
        "tools": None,
        "documents": None,
        "chat_template": None,
        "chat_template_kwargs": None,
        "reasoning_effort": None,
        "add_generation_prompt": True,
        "continue_final_message": False,
        "add_special_tokens": False,
        "truncate_prompt_tokens": None,
        "truncation_side": None,
    }
)
"""The fields of a chat that its prompt depends on, and what they are when left out."""


@dataclass(slots=True)
class _Prompt:
    ids: list[int] | None = None
    lock: Lock = field(default_factory=Lock)
    """Held while it is rendered."""


class RememberingRenderer:
    """A renderer that knows the last chats; everything else is the renderer's own."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._known: OrderedDict[bytes, _Prompt] = OrderedDict()
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    def chat_ids(self, body: Mapping[str, Any], limit_s: float = BUDGET_S) -> list[int]:
        """As `Renderer.chat_ids`; the list is not to be changed."""
        key = msgspec.json.encode([body.get(name, usual) for name, usual in _DECIDING.items()])
        with self._lock:
            prompt = self._known.setdefault(key, _Prompt())
            if len(self._known) > _PROMPTS_MAX:
                self._known.popitem(last=False)
        with prompt.lock:
            if prompt.ids is None:
                prompt.ids = self._renderer.chat_ids(body, limit_s)
            return prompt.ids
