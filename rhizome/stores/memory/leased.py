"""Entries that end with their lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from rhizome.clock import Clock

T = TypeVar("T")


@dataclass(slots=True)
class _Entry(Generic[T]):
    tag: str
    value: T
    ends_s: float


class LeasedEntries(Generic[T]):
    """Values by id; `tag` says whose entry it is, and only its owner may renew or remove it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry[T]] = {}

    def put(self, entry_id: str, tag: str, value: T, ttl_s: float) -> None:
        self._entries[entry_id] = _Entry(tag, value, self._clock.monotonic_s() + ttl_s)

    def get(self, entry_id: str) -> T | None:
        self._forget_ended()
        entry = self._entries.get(entry_id)
        return entry.value if entry is not None else None

    def renew(self, entry_id: str, tag: str, ttl_s: float) -> bool:
        entry = self._owned(entry_id, tag)
        if entry is None:
            return False
        entry.ends_s = self._clock.monotonic_s() + ttl_s
        return True

    def remove(self, entry_id: str, tag: str) -> bool:
        if self._owned(entry_id, tag) is None:
            return False
        del self._entries[entry_id]
        return True

    def items(self) -> list[tuple[str, T]]:
        """What lives, ordered by id."""
        self._forget_ended()
        return [(entry_id, self._entries[entry_id].value) for entry_id in sorted(self._entries)]

    def _owned(self, entry_id: str, tag: str) -> _Entry[T] | None:
        self._forget_ended()
        entry = self._entries.get(entry_id)
        return entry if entry is not None and entry.tag == tag else None

    def _forget_ended(self) -> None:
        now_s = self._clock.monotonic_s()
        for entry_id in [key for key, entry in self._entries.items() if entry.ends_s <= now_s]:
            del self._entries[entry_id]
