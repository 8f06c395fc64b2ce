"""Finds, in what an engine wrote before it died, the one line that tells why."""

from __future__ import annotations

import re
from collections.abc import Sequence

_ERROR = re.compile(r"\b((?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt|Unusable)): (\S.*)$")
_CONSEQUENCES = (
    "Engine core initialization failed",
    "Engine core proc",
    "EngineCore encountered an issue",
    "WorkerProc initialization failed",
    "Worker failed with error",
    "cancelled",
)
_LENGTH_MAX = 500


def cause_of(lines: Sequence[str]) -> str | None:
    """The error that started it: the last one that is not itself the consequence of another.

    None when no line looks like an error.
    """
    found: str | None = None
    fallback: str | None = None
    for line in lines:
        match = _ERROR.search(line.rstrip())
        if match is None:
            continue
        text = f"{match.group(1).rpartition('.')[2]}: {match.group(2)}"[:_LENGTH_MAX]
        if any(consequence in text for consequence in _CONSEQUENCES):
            fallback = text
        else:
            found = text
    return found or fallback
