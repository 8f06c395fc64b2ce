"""What one router tells the others, and how it crosses the wire.

A message says how much of its sender's load is at some targets: absolute numbers, not differences,
so that a message may be lost, repeated or overtaken and the next one still tells the truth.
`sequence` orders a sender's messages; each start of a router is a sender of its own.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Annotated

import msgspec

VERSION = 1
TARGETS_MAX = 4096
"""Targets of one message."""
BLOCKS_MAX = 8192
"""Predicted blocks of one message, 8 bytes each."""
PREDICTIONS_MAX = 1024
"""Predicted prompts of one message."""
MESSAGE_BYTES_MAX = 1 << 20
"""Longest message that is read."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class TargetLoad(msgspec.Struct, frozen=True, array_like=True):
    """The sender's whole load at one target."""

    target: Name
    in_flight: Count
    """Requests dispatched and not ended."""
    queued_tokens: Count
    """Uncached prompt tokens of those without a first byte."""


class Prediction(msgspec.Struct, frozen=True, array_like=True):
    """Blocks that a target will hold because the sender just sent it a prompt."""

    target: Name
    packed: Annotated[bytes, msgspec.Meta(max_length=8 * BLOCKS_MAX)]
    """Block hashes in chain order, 8 bytes each, little-endian."""
    is_exact: bool
    """Whether KV events will confirm them; else they are believed for longer."""

    def hashes(self) -> list[int]:
        """The blocks; a rest of less than 8 bytes is none."""
        blocks = array("Q")
        blocks.frombytes(self.packed[: len(self.packed) // 8 * 8])
        if sys.byteorder == "big":
            blocks.byteswap()
        return blocks.tolist()


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One message."""

    version: int
    router: Name
    sequence: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    is_whole: bool
    """Whether the sender has no load at targets that are not named."""
    is_last: bool
    """The sender leaves."""
    asks: bool
    """The sender is new and asks the others to tell everything."""
    loads: Annotated[list[TargetLoad], msgspec.Meta(max_length=TARGETS_MAX)]
    predictions: Annotated[list[Prediction], msgspec.Meta(max_length=PREDICTIONS_MAX)]


_decoder = msgspec.msgpack.Decoder(Told)


def packed(hashes: Sequence[int]) -> bytes:
    """Hashes as a `Prediction` has them."""
    blocks = array("Q", hashes)
    if sys.byteorder == "big":
        blocks.byteswap()
    return blocks.tobytes()


def encode(told: Told) -> bytes:
    """The message as MessagePack."""
    return msgspec.msgpack.encode(told)


def heading(router_id: str) -> bytes:
    """How every message of that router begins."""
    fields = len(Told.__struct_fields__)
    return b"".join(
        (bytes([0x90 | fields]), msgspec.msgpack.encode(VERSION), msgspec.msgpack.encode(router_id))
    )


def decode(message: bytes) -> Told | None:
    """The message; None for what is none of this version."""
    if len(message) > MESSAGE_BYTES_MAX:
        return None
    try:
        told = _decoder.decode(message)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return told if told.version == VERSION else None
