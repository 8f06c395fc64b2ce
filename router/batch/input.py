"""Reads a batch's input file, in bounded chunks; a bad line is a fault of that line only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from rhizome.stores.lines import Line

_CHUNK_LINES = 256
_CHUNK_BYTES = 2**21


class _Request(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


@dataclass(frozen=True, slots=True)
class LineFault:
    """A line that cannot be sent, and why."""

    index: int
    custom_id: str | None
    code: str
    message: str


_request_decoder = msgspec.json.Decoder(_Request)
_body_decoder = msgspec.json.Decoder(dict[str, Any])


def count_lines(path: Path, line_bytes_max: int, lines_max: int) -> int:
    """Lines that are not blank; counts no further than `lines_max + 1`."""
    with path.open("rb") as file:
        return sum(1 for _ in islice(_raw_lines(file, line_bytes_max), lines_max + 1))


class InputReader:
    """The lines of one file, in order. `index` counts the lines that are not blank."""

    def __init__(self, path: Path, batch_id: str, endpoint: str, line_bytes_max: int) -> None:
        self._path = path
        self._batch_id = batch_id
        self._endpoint = endpoint
        self._line_bytes_max = line_bytes_max

    def chunks(self) -> Iterator[list[Line | LineFault]]:
        """Lists of some hundred lines or some megabytes; blocks while it reads."""
        chunk: list[Line | LineFault] = []
        size = 0
        for line, line_bytes in self._lines():
            chunk.append(line)
            size += line_bytes
            if len(chunk) >= _CHUNK_LINES or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk

    def _lines(self) -> Iterator[tuple[Line | LineFault, int]]:
        seen: set[str] = set()
        with self._path.open("rb") as file:
            for index, raw in enumerate(_raw_lines(file, self._line_bytes_max)):
                if raw is None:
                    yield self._too_long(index), 0
                else:
                    yield self._read(index, raw, seen), len(raw)

    def _read(self, index: int, raw: bytes, seen: set[str]) -> Line | LineFault:
        try:
            request = _request_decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return LineFault(index, _custom_id(raw), "invalid_json_line", f"not a request: {error}")
        fault = self._fault(request, seen)
        if fault is not None:
            return LineFault(index, request.custom_id, *fault)
        seen.add(request.custom_id)
        return Line(
            batch_id=self._batch_id,
            index=index,
            custom_id=request.custom_id,
            url=request.url,
            body=bytes(request.body),
        )

    def _fault(self, request: _Request, seen: set[str]) -> tuple[str, str] | None:
        if not 0 < len(request.custom_id) <= 512:
            return "invalid_custom_id", "custom_id must have 1 to 512 characters"
        if request.custom_id in seen:
            return "duplicate_custom_id", f"custom_id {request.custom_id!r} was used before"
        if request.method != "POST":
            return "invalid_method", f"method must be POST, not {request.method!r}"
        if request.url != self._endpoint:
            return "mismatched_url", f"url must be the batch's endpoint {self._endpoint}"
        try:
            body = _body_decoder.decode(request.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return "invalid_body", f"body must be an object: {error}"
        if body.get("stream"):
            return "invalid_body", "a batch cannot stream"
        return None

    def _too_long(self, index: int) -> LineFault:
        message = f"the line is longer than {self._line_bytes_max} bytes (batch.line_bytes_max)"
        return LineFault(index, None, "line_too_long", message)


def _raw_lines(file: IO[bytes], line_bytes_max: int) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that is too long."""
    while raw := file.readline(line_bytes_max + 1):
        if len(raw) > line_bytes_max and not raw.endswith(b"\n"):
            while (rest := file.readline(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None
        elif raw.strip():
            yield raw


def _custom_id(raw: bytes) -> str | None:
    """The custom id of a line that is wrong elsewhere, if it can be found."""
    try:
        line = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    found = line.get("custom_id")
    return found if isinstance(found, str) else None
