"""What is kept of each request, from the client to the metrics.

Times are seconds since the run's common beginning. Definitions, as the field's tools use them:
sent: when the client began to send, before any connection was made for it; first and last: arrival
of the first and the last chunk with content (text, reasoning or a tool call); ended: the end of
the response or of its failure.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class ErrorKind(Enum):
    """Why a request has no whole answer."""

    CONNECT = "connect"
    """No connection within its time, or refused."""
    RESET = "reset"
    """The connection broke before the answer's end."""
    TIMEOUT = "timeout"
    """The whole took longer than its deadline."""
    SILENCE = "silence"
    """Nothing came for the longest silence allowed."""
    HTTP_4XX = "http_4xx"
    HTTP_429 = "http_429"
    HTTP_5XX = "http_5xx"
    STREAM_ERROR = "stream_error"
    """An error event inside the stream."""
    INCOMPLETE = "incomplete"
    """The stream ended without its end mark, or without content."""
    UNREADABLE = "unreadable"
    """Not HTTP, or not the events of an OpenAI API."""
    CLIENT_FULL = "client_full"
    """Not sent: the client already had its most requests in flight; the run is not valid."""
    STOPPED = "stopped"
    """Still running when the run was stopped."""


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request and how it went."""

    number: int
    tenant: str
    session: str
    scheduled_s: float
    sent_s: float
    ended_s: float
    output_asked: int
    first_s: float | None = None
    last_s: float | None = None
    gaps_ms: bytes = b""
    """Times between chunks with content, 32-bit floats, little-endian."""
    prompt_tokens: int | None = None
    """As the server counted; None where it sent no usage."""
    prompt_expected: int | None = None
    """What it had to count, where that is known."""
    cached_tokens: int | None = None
    output_tokens: int | None = None
    """As the server counted, else the chunks with content."""
    worker: str | None = None
    """The response's `x-rhizome-worker`."""
    request_id: str | None = None
    """The response's `x-request-id`."""
    status: int | None = None
    error: ErrorKind | None = None
    detail: str = ""

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: from sending to the first content."""
        return None if self.first_s is None else (self.first_s - self.sent_s) * 1000.0

    @property
    def e2e_ms(self) -> float | None:
        """From sending to the last content."""
        return None if self.last_s is None else (self.last_s - self.sent_s) * 1000.0

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (E2E - TTFT) / (output tokens - 1)."""
        if self.first_s is None or self.last_s is None or (self.output_tokens or 0) < 2:
            return None
        return (self.last_s - self.first_s) * 1000.0 / ((self.output_tokens or 0) - 1)


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How well one client process kept up; lags in ms."""

    cpu_share: float
    """CPU time by wall time while sending; 1 is a whole core."""
    send_lag_ms_p50: float
    send_lag_ms_p99: float
    send_lag_ms_max: float
    """Actual minus scheduled time of sending."""
    loop_lag_ms_p50: float
    loop_lag_ms_p99: float
    loop_lag_ms_max: float
    """How late the event loop woke a task that slept."""
    answers_real: int = 0
    answers_made_up: int = 0
    """Earlier answers in prompts, where real ones were asked for and not all were there yet."""
