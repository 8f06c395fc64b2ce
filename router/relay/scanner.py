"""Reads along in a worker's event stream: forwards whole events, notes usage and the proper end.

Pure. Promises: every byte fed is either forwarded in order, still held back as the start of an
unfinished event, or belongs to the usage event that the router asked for and the client did not.
"""

from __future__ import annotations

from typing import Any

import msgspec

_END = b"\n\n"
_DONE = b"data: [DONE]"
_DATA = b"data: "


class EventTooLong(ValueError):
    """A single event is longer than the bound."""


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """What the engine counted for one request, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: PromptTokensDetails | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the engine did not compute; None if it does not say."""
        if self.prompt_tokens_details is None:
            return None
        return self.prompt_tokens_details.cached_tokens


class _Chunk(msgspec.Struct, frozen=True):
    usage: Usage | None = None
    choices: list[Any] | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


def usage_of(body: bytes) -> Usage | None:
    """The usage in a non-streaming answer, if it has one."""
    try:
        return _decoder.decode(body).usage
    except msgspec.MsgspecError:
        return None


class EventScanner:
    """One stream's scanner.

    `strip_usage`: drop the usage event (it has no choices) because only the router asked for it.
    """

    def __init__(self, *, strip_usage: bool, event_bytes_max: int) -> None:
        self._strip_usage = strip_usage
        self._event_bytes_max = event_bytes_max
        self._held = b""
        self.usage: Usage | None = None
        self.events = 0
        """Events forwarded, the end mark not counted: about one per token."""
        self.done = False
        """The end mark was seen."""
        self.failed = False
        """The engine itself reported an error in the stream."""

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """What to forward now; raises `EventTooLong`."""
        data = self._held + chunk if self._held else chunk
        cut = data.rfind(_END) + len(_END)
        if cut < len(_END):
            cut = 0
        self._held = data[cut:]
        if len(self._held) > self._event_bytes_max:
            raise EventTooLong(f"an event is longer than {self._event_bytes_max} bytes")
        whole = data[:cut]
        if not whole:
            return b""
        if b'"usage"' not in whole and _DONE not in whole and b'"error"' not in whole:
            self.events += whole.count(_END)
            return whole
        return b"".join(
            event + _END for event in whole[: -len(_END)].split(_END) if self._keep(event)
        )

    def _keep(self, event: bytes) -> bool:
        if event.startswith(_DONE):
            self.done = True
            return True
        self.events += 1
        if not event.startswith(_DATA) or not (b'"usage"' in event or b'"error"' in event):
            return True
        try:
            chunk = _decoder.decode(event[len(_DATA) :])
        except msgspec.MsgspecError:
            return True
        if chunk.error is not None:
            self.failed = True
        if chunk.usage is not None:
            self.usage = chunk.usage
            if not chunk.choices:
                self.events -= 1
                return not self._strip_usage
        return True
