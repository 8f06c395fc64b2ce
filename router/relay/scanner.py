"""Reads along in a worker's event stream: forwards whole events, notes usage and the proper end.

Pure. Promises: every byte fed is either forwarded in order, still held back as the start of an
unfinished event, or belongs to the usage event that the router asked for and the client did not.
"""

from __future__ import annotations

from router.relay.dialect import Dialect, Usage

_END = b"\n\n"


class EventTooLong(ValueError):
    """A single event is longer than the bound."""


class EventScanner:
    """One stream's scanner.

    `strip_usage`: drop events of usage alone, because only the router asked for them.
    """

    __slots__ = (
        "_dialect",
        "_event_bytes_max",
        "_held",
        "_marks",
        "_strip_usage",
        "done",
        "failed",
        "usage",
    )

    def __init__(self, dialect: Dialect, *, strip_usage: bool, event_bytes_max: int) -> None:
        self._dialect = dialect
        self._marks = dialect.marks
        self._strip_usage = strip_usage
        self._event_bytes_max = event_bytes_max
        self._held = b""
        self.usage: Usage | None = None
        self.done = False
        """The stream came to its proper end."""
        self.failed = False
        """The engine itself reported an error in the stream."""

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """What to forward now; raises `EventTooLong`."""
        if self._held or not chunk.endswith(_END):
            chunk = self._whole_events(chunk)
            if not chunk:
                return b""
        for mark in self._marks:
            if mark in chunk:
                return self._read(chunk)
        return chunk

    def _whole_events(self, chunk: bytes) -> bytes:
        """What is complete; the rest is held back."""
        data = self._held + chunk
        cut = data.rfind(_END) + len(_END)
        if cut < len(_END):
            cut = 0
        self._held = data[cut:]
        if len(self._held) > self._event_bytes_max:
            raise EventTooLong(f"an event is longer than {self._event_bytes_max} bytes")
        return data[:cut]

    def _read(self, whole: bytes) -> bytes:
        return b"".join(
            event + _END for event in whole[: -len(_END)].split(_END) if self._keep(event)
        )

    def _keep(self, event: bytes) -> bool:
        if not any(mark in event for mark in self._marks):
            return True
        note = self._dialect.note(event)
        self.failed |= note.is_failure
        self.done |= note.is_end
        if note.usage is not None:
            self.usage = note.usage
        return not (note.is_usage_only and self._strip_usage)
