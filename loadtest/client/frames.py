"""What a client process and its parent say to each other, over the process's own pipes.

The parent writes lines of JSON: the order, then the beginning, then perhaps a stop; the end of its
pipe is a stop too. The process answers with frames: four bytes of length, then msgpack.
"""

from __future__ import annotations

import asyncio
import struct

import msgspec

from loadtest.plan import Plan
from loadtest.records import ProcessFacts, RequestRecord

_LENGTH = struct.Struct("<I")


class Order(msgspec.Struct, frozen=True, tag="order"):
    """Prepare your part of the plan."""

    plan: Plan
    part: int


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Time 0 is at this wall time."""

    wall_s: float


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End now with what is known."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Everything is loaded."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It cannot be done."""

    message: str
    advice: str


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How it stands."""

    part: int
    sent: int
    done: int
    failed: int
    in_flight: int
    tokens: int
    at_s: float


class Rows(msgspec.Struct, frozen=True, tag="rows"):
    """Some of the records, at the end."""

    records: list[RequestRecord]


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """That was all."""

    facts: ProcessFacts
    stopped: bool


Said = Ready | Refused | Progress | Rows | Finished
Asked = Order | Begin | Stop
asked_decoder = msgspec.json.Decoder(Asked)
_said_decoder = msgspec.msgpack.Decoder(Said)


def frame(said: Said) -> bytes:
    """One frame."""
    data = msgspec.msgpack.encode(said)
    return _LENGTH.pack(len(data)) + data


async def read_frame(reader: asyncio.StreamReader) -> Said:
    """The next frame; raises `asyncio.IncompleteReadError` at the end of the pipe."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    said: Said = _said_decoder.decode(await reader.readexactly(length))
    return said
