"""One request's answer as it arrives: events, times, usage, and what went wrong.

Pure: fed with bytes and times, so that definitions can be tested without a server.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import numpy as np

from loadtest.records import ErrorKind, RequestRecord
from loadtest.workloads.requests import TracedRequest

EVENT_BYTES_MAX = 4 * 2**20
_ERROR_BYTES_MAX = 4096
_DETAIL_MAX = 300
_REFUSALS = ("queue_full", "queue_timeout")


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Event)


class Exchange:
    """What is known of one request so far. Times are seconds since the run's beginning."""

    def __init__(
        self,
        request: TracedRequest,
        prompt_expected: int | None,
        sent_s: float,
        *,
        keep_text: bool = False,
    ) -> None:
        self.request = request
        self.sent_s = sent_s
        self.heard_s = sent_s
        """When something last came."""
        self.tokens = 0
        """Chunks with content."""
        self.error: ErrorKind | None = None
        self.over = False
        self._prompt_expected = prompt_expected
        self._parts: list[str] | None = [] if keep_text else None
        self._arrivals_s = array("d")
        self._held = b""
        self._status: int | None = None
        self._headers: dict[bytes, bytes] = {}
        self._usage: _Usage | None = None
        self._done = False
        self._detail = ""

    @property
    def first_s(self) -> float | None:
        return self._arrivals_s[0] if self._arrivals_s else None

    @property
    def text(self) -> str:
        """The answer, if it was to be kept."""
        return "".join(self._parts or ())

    def answered(self, status: int, headers: dict[bytes, bytes], now_s: float) -> None:
        """The head of the response; header names in lower case."""
        self._status = status
        self._headers = headers
        self.heard_s = now_s

    def feed(self, data: bytes, now_s: float) -> None:
        """A piece of the response's body."""
        self.heard_s = now_s
        if self._status != 200:
            self._held = (self._held + data)[:_ERROR_BYTES_MAX]
            return
        *events, self._held = (self._held + data).split(b"\n\n")
        if b"\r" in self._held or any(b"\r" in event for event in events):
            joined = b"\n\n".join([*events, self._held]).replace(b"\r\n", b"\n")
            *events, self._held = joined.split(b"\n\n")
        for event in events:
            self._event(event, now_s)
        if len(self._held) > EVENT_BYTES_MAX:
            self._fault(ErrorKind.UNREADABLE, "an event without end")

    def end(self) -> None:
        """The response is complete as HTTP goes."""
        if self._status != 200:
            self._fault(_kind_of(self._status or 0), _said(self._held))
        elif not (self._done and self._arrivals_s):
            self._fault(ErrorKind.INCOMPLETE, "no content" if self._done else "no end mark")

    def fail(self, kind: ErrorKind, detail: str = "") -> None:
        """The answer will not come, or no further."""
        self._fault(kind, detail)

    def record(self, now_s: float) -> RequestRecord:
        """The request's row; call it once, at the end."""
        self.over = True
        usage = self._usage or _Usage()
        details = usage.prompt_tokens_details
        gaps_ms = np.diff(np.frombuffer(self._arrivals_s, dtype=np.float64)) * 1000.0
        counted = usage.completion_tokens
        return RequestRecord(
            number=self.request.number,
            tenant=self.request.tenant,
            session=self.request.session,
            scheduled_s=self.request.at_s,
            sent_s=self.sent_s,
            ended_s=now_s,
            output_asked=self.request.output_len,
            first_s=self.first_s,
            last_s=self._arrivals_s[-1] if self._arrivals_s else None,
            gaps_ms=gaps_ms.astype("<f4").tobytes(),
            prompt_tokens=usage.prompt_tokens,
            prompt_expected=self._prompt_expected,
            cached_tokens=details.cached_tokens if details else None,
            output_tokens=self.tokens if counted is None and self.tokens else counted,
            worker=_header(self._headers, b"x-rhizome-worker"),
            request_id=_header(self._headers, b"x-request-id"),
            status=self._status,
            error=self.error,
            detail=self._detail,
        )

    def _event(self, event: bytes, now_s: float) -> None:
        data = event.lstrip(b"\n")
        if not data.startswith(b"data:"):
            return
        data = data[5:].strip()
        if data == b"[DONE]":
            self._done = True
            return
        try:
            told = _decoder.decode(data)
        except msgspec.MsgspecError as error:
            self._fault(ErrorKind.UNREADABLE, str(error))
            return
        if told.error is not None:
            self._fault(_kind_of_event(told.error), str(told.error))
        if told.usage is not None:
            self._usage = told.usage
        if told.choices and (content := _content(told.choices[0])):
            self.tokens += 1
            self._arrivals_s.append(now_s)
            if self._parts is not None:
                self._parts.append(content)

    def _fault(self, kind: ErrorKind, detail: str) -> None:
        """The first fault is the one that is told."""
        if self.error is None:
            self.error = kind
            self._detail = detail[:_DETAIL_MAX]


def _content(choice: _Choice) -> str:
    """The text of a chunk, or something for a tool call; empty for a chunk without content."""
    delta = choice.delta
    if delta is None:
        return choice.text or ""
    said = delta.content or delta.reasoning or delta.reasoning_content
    return said or ("\n" if delta.tool_calls else "")


def _kind_of(status: int) -> ErrorKind:
    if status == 429:
        return ErrorKind.HTTP_429
    if 400 <= status < 500:
        return ErrorKind.HTTP_4XX
    return ErrorKind.HTTP_5XX if status >= 500 else ErrorKind.UNREADABLE


def _kind_of_event(error: Any) -> ErrorKind:
    """A stream that has had comments while it waited is refused by an event."""
    code = error.get("code") if isinstance(error, dict) else None
    return ErrorKind.HTTP_429 if code in _REFUSALS else ErrorKind.STREAM_ERROR


def _said(body: bytes) -> str:
    """The message of an error body, or its beginning."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


def _header(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
