"""How a request can end: exactly one of these, as metric label, log field and test oracle."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    COMPLETED = "completed"
    """The worker answered and the client got the last byte."""
    REJECTED = "rejected"
    """The request itself was wrong (4xx of ours or of the worker's)."""
    OVERLOADED = "overloaded"
    """No room, and the queue was full or its deadline passed (429)."""
    UNAVAILABLE = "unavailable"
    """No worker could be reached before the first byte (502, 503, 504)."""
    BROKEN = "broken"
    """The worker failed after the first byte; the client got the protocol's error event."""
    CLIENT_LEFT = "client_left"
    """The client went away; the engine was told to stop."""
    FAULT = "fault"
    """A bug of ours (500)."""
