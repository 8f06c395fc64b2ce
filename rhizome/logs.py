"""Logging set-up: one line per event, as text for people or JSON for machines, secrets removed."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Literal

_SECRET = re.compile(
    r"(?i)(rzk-|bearer\s+|(?:password|api[_-]?key|token|secret)[=:]\s*)[^\s,;'\"@}]{6,}"
    r"|(://[^/\s:@]*:)[^\s@]+(?=@)"
)


def redact(text: str) -> str:
    """The text with keys, bearer tokens and URL passwords replaced by `***`."""
    return _SECRET.sub(r"\1\2***", text)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(level: str, style: Literal["text", "json"]) -> None:
    """Sends all logs to standard error; call once, at the start of a process."""
    handler = logging.StreamHandler(sys.stderr)
    if style == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        handler.setFormatter(_TextFormatter("%(asctime)s %(levelname)-7s %(name)s  %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)
