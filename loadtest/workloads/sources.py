"""Reading workload files line by line, plain or gzipped, so that every fault names its line."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path

from rhizome.errors import TraceError

LINE_BYTES_MAX = 16 * 2**20
"""Longest line of a trace; a longer one is refused rather than read into memory."""


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers from 1 and lines without their ends; blank lines are passed over.

    Raises `TraceError`.
    """
    number = 0
    try:
        with _opened(path) as file:
            while line := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_BYTES_MAX:
                    raise broken(path, number, f"the line is longer than {LINE_BYTES_MAX} bytes")
                if text := line.strip():
                    yield number, text
    except (OSError, EOFError) as error:
        place = f"after line {number}" if number else "from its beginning"
        raise TraceError(
            f"{path} cannot be read {place}: {error}", advice="Fetch or copy the file again."
        ) from error


def broken(path: Path, line: int, what: str) -> TraceError:
    """The error for one line."""
    return TraceError(f"{path}:{line}: {what}", advice="Correct the line, or cut the file there.")


def _opened(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")
