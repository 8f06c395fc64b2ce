"""HTTP's chunked framing of one token, recognised without parsing it.

An engine sends each token of a stream as one chunk. What begins with the length that just such a
chunk has, and ends as an event does, is one whole chunk of whole events: it can go to the client
as it is, which saves parsing it and framing it again.
"""

from __future__ import annotations

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
EVENT_BYTES_MIN = 16
"""A shorter chunk is looked at: it may be the last one."""
