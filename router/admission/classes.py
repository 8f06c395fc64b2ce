"""The classes of requests."""

from __future__ import annotations

from enum import StrEnum


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    """Somebody waits for the answer."""
    BATCH = "batch"
    """Fills capacity that nobody interactive needs."""
