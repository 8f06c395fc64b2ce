"""Identifiers and keys: where they come from and how they look."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

_ID_BYTES = 12
_IDS_AT_ONCE = 64
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")


class _Random:
    """Random bytes of the system for some identifiers at once: each call of it takes longer than
    all else that an identifier costs."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        os.register_at_fork(after_in_child=self._parts.clear)

    def take(self) -> bytes:
        try:
            return self._parts.pop()
        except IndexError:
            drawn = secrets.token_bytes(_ID_BYTES * _IDS_AT_ONCE)
        steps = range(_ID_BYTES, len(drawn), _ID_BYTES)
        self._parts += [drawn[at : at + _ID_BYTES] for at in steps]
        return drawn[:_ID_BYTES]


_random = _Random()


def new_id(prefix: str) -> str:
    """A fresh identifier such as `req-3f9c…`: the prefix and 96 random bits in hex."""
    return f"{prefix}-{_random.take().hex()}"


def new_key(prefix: str = "rzk") -> str:
    """A fresh secret of 256 random bits; never log it."""
    return f"{prefix}-{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What is stored of a key that `new_key` made: `sha256:` and 64 hex digits.

    A plain hash cannot be guessed back, since the key is 256 random bits.
    """
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def request_id_or_new(offered: str | None) -> str:
    """The client's request id when it is safe to carry in headers and logs, else a new one."""
    if offered is not None and _REQUEST_ID.match(offered):
        return offered
    return new_id("req")
