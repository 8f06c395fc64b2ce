"""What passes between a worker and the process that hosts its engine: one JSON object a line.

Orders go to the host's standard input, so that keys stay out of argument lists and environments;
reports come back on a pipe of their own. The end of the orders (the worker is gone) ends the host.
"""

from __future__ import annotations

import msgspec


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The first order: what to load and where to serve it."""

    arguments: list[str]
    """vLLM's command line."""
    api_key: str | None
    listen_fd: int
    """A bound TCP socket that the host inherits."""
    report_fd: int
    """A pipe for the reports that the host inherits."""


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Report `Idle` once nothing runs, or when the grace ends."""

    grace_s: float


class Stop(msgspec.Struct, frozen=True, kw_only=True, tag="stop"):
    """End the HTTP server and the engine, then exit."""


class Serving(msgspec.Struct, frozen=True, kw_only=True, tag="serving"):
    """The engine answers; what it found out about itself."""

    block_size: int | None
    kv_blocks: int | None
    max_model_len: int | None
    max_num_seqs: int | None
    data_parallel: int
    generates: bool
    redoes_last_block: bool = False
    chunk_tokens: int | None = None


class Idle(msgspec.Struct, frozen=True, kw_only=True, tag="idle"):
    """The answer to `Drain`."""

    drained: bool
    """False: requests still run, the grace has ended."""


class Dead(msgspec.Struct, frozen=True, kw_only=True, tag="dead"):
    """The engine died; the host is about to exit."""

    cause: str


Order = Drain | Stop
Report = Serving | Idle | Dead

_encoder = msgspec.json.Encoder()
_start = msgspec.json.Decoder(Start)
_order: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_report: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def to_line(message: Start | Order | Report) -> bytes:
    """The message as one line."""
    return _encoder.encode(message) + b"\n"


def read_start(line: bytes) -> Start:
    return _start.decode(line)


def read_order(line: bytes) -> Order:
    return _order.decode(line)


def read_report(line: bytes) -> Report:
    return _report.decode(line)
