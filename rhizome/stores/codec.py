"""Records to bytes and back; what cannot be read is skipped, counted and said once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import msgspec
import pydantic

_log = logging.getLogger(__name__)
T = TypeVar("T")


class RecordCodec(Generic[T]):
    """Encodes records of one kind and tolerates stored ones that this version cannot read.

    The other writer may be a newer or older release, or a person with a Redis shell: one bad record
    must not hide the good ones.
    """

    def __init__(
        self, kind: str, encode: Callable[[T], bytes], decode: Callable[[bytes], T]
    ) -> None:
        self._kind = kind
        self._encode = encode
        self._decode = decode
        self.undecodable = 0
        """Records skipped since the start."""

    def encode(self, record: T) -> bytes:
        return self._encode(record)

    def decode(self, stored: bytes) -> T | None:
        """The record, or None where it cannot be read."""
        try:
            return self._decode(stored)
        except (msgspec.MsgspecError, pydantic.ValidationError, UnicodeDecodeError) as error:
            if self.undecodable == 0:
                _log.warning("skipping an unreadable %s record: %s", self._kind, error)
            self.undecodable += 1
            return None

    def decode_all(self, stored: Iterable[bytes]) -> list[T]:
        """The readable ones, in order."""
        return [record for one in stored if (record := self.decode(one)) is not None]


def json_codec(kind: str, of: type[T]) -> RecordCodec[T]:
    """A codec for a msgspec type, as JSON."""
    return RecordCodec(kind, msgspec.json.encode, msgspec.json.Decoder(of).decode)


def msgpack_codec(kind: str, of: type[T]) -> RecordCodec[T]:
    """A codec for a msgspec type that holds bytes, as MessagePack."""
    return RecordCodec(kind, msgspec.msgpack.encode, msgspec.msgpack.Decoder(of).decode)
