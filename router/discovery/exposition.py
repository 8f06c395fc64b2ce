"""Reads a few samples out of a Prometheus text page without parsing the rest of it.

An engine's page has thousands of lines and is read every few seconds for every worker; a full
parser would spend milliseconds of the event loop on each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\.)*)"')
_ESCAPED = re.compile(rb"\\(.)")
_SAMPLES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


class SampleReader:
    """Finds the samples of some metrics."""

    def __init__(self, names: Iterable[str]) -> None:
        alternatives = b"|".join(re.escape(name.encode()) for name in names)
        self._line = re.compile(
            rb"^(" + alternatives + rb")(?:\{([^\n]*)\})?[ \t]+([^ \t\r\n]+)", re.MULTILINE
        )

    def read(self, page: bytes) -> list[Sample]:
        """The samples in the page's order, at most a few thousand; unreadable ones are left out."""
        return list(islice(self._samples(page), _SAMPLES_MAX))

    def _samples(self, page: bytes) -> Iterator[Sample]:
        for match in self._line.finditer(page):
            name, labels, number = match.groups()
            try:
                value = float(number)
            except ValueError:
                continue
            yield Sample(name.decode(), _labels(labels or b""), value)


def _labels(text: bytes) -> dict[str, str]:
    return {
        name.decode(): _ESCAPED.sub(_unescaped, value).decode(errors="replace")
        for name, value in _LABEL.findall(text)
    }


def _unescaped(match: re.Match[bytes]) -> bytes:
    character = match.group(1)
    return b"\n" if character == b"n" else character
