"""HTTP's framing, recognised without parsing it: of one token, and of heads that come again.

An engine sends each token of a stream as one chunk. What begins with the length that just such a
chunk has, and ends as an event does, is one whole chunk of whole events: it can go to the client
as it is, which saves parsing it and framing it again.

A head that was parsed says the same again if nothing differs but the digits of its one
`Content-Length`.
"""

from __future__ import annotations

import re

CHUNK_BYTES_MAX = 4096
"""Longest chunk, framing included, that is recognised."""
_NEVER = b"\xff"


def _chunk_heads() -> list[bytes]:
    heads = [_NEVER] * CHUNK_BYTES_MAX
    for size in range(1, CHUNK_BYTES_MAX):
        head = b"%x\r\n" % size
        length = len(head) + size + len(b"\r\n")
        if length < CHUNK_BYTES_MAX:
            heads[length] = head
    return heads


CHUNK_HEADS = _chunk_heads()
"""By the length of a chunk with its framing: how it begins; what nothing begins with where no
chunk is so long."""
EVENT_CHUNK_END = b"\n\n\r\n"
"""How a chunk ends that ends with an event."""
_LENGTH = re.compile(rb"\r\ncontent-length: (\d{1,15})\r\n", re.IGNORECASE)


def around_length(data: bytes) -> tuple[bytes, bytes] | None:
    """What is before and behind the length's digits, in a head that is here whole."""
    end = data.find(b"\r\n\r\n") + 4
    found = _LENGTH.search(data, 0, end) if end > 3 else None
    if found is None or b"transfer-encoding" in data[:end].lower():
        return None
    return data[: found.start(1)], data[found.end(1) : end]


def body_behind(head: tuple[bytes, bytes], data: bytes) -> bytes | None:
    """The body, if `data` is one whole message with a head like this: what is before and behind
    the digits of its length. A message of so many bytes can have only one such head."""
    before, behind = head
    rest = len(data) - len(before) - len(behind)
    length = rest - len(str(rest))
    if len(str(length)) < len(str(rest)):  # it has a digit less
        length += 1
    like = b"%b%d%b" % (before, length, behind)
    if len(like) + length != len(data) or not data.startswith(like):
        return None
    return data[len(like) :]
