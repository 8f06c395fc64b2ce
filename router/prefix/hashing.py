"""Chained hashes of a prompt's blocks.

A block's hash covers its tokens and the hash of the block before it, so equal hashes mean equal
prefixes: xxh3-64 over the token ids (uint32, little-endian), seeded with the hash of the parent.
Hashes are ours alone: engines name their blocks differently, and theirs are mapped to these. A
collision costs a wrong guess of what is cached, never a wrong answer, so 64 bits do.

Left out: media in prompts; they have no token ids that tell them apart.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from router.prefix.chain import Chain

_ID_CODE = "I" if array("I").itemsize == 4 else "L"
_ID_BYTES = 4
_IS_LITTLE = sys.byteorder == "little"


def root_hash(lora: str | None = None, salt: str | None = None) -> int:
    """The parent of a prompt's first block: what else the engine's cache is keyed by.

    Absent and empty differ, and no two pairs of adapter and salt have the same encoding.
    """
    return _PLAIN_ROOT if lora is None and salt is None else _root_hash(lora, salt)


def _root_hash(lora: str | None, salt: str | None) -> int:
    parts = []
    for value in (lora, salt):
        data = value.encode("utf-8", "surrogatepass") if value is not None else b""
        parts.append(struct.pack("<?Q", value is not None, len(data)) + data)
    return xxh3_64_intdigest(b"".join(parts))


_PLAIN_ROOT = _root_hash(None, None)


def extend_chain(parent: int, token_ids: Sequence[int], block_size: int) -> list[int]:
    """Hashes of the full blocks of `token_ids` that follow the block `parent`, first one first.

    Ids left over after the last full block are not in it. Raises `ValueError` for an id outside
    0 to 2**32 - 1 or a block size below 1.
    """
    if block_size < 1:
        raise ValueError(f"a block has at least one token, not {block_size}")
    return _chain(parent, _packed(token_ids), block_size * _ID_BYTES)


def block_hashes(token_ids: Sequence[int], block_size: int, root: int) -> Chain:
    """Hashes of a prompt's full blocks; `root` comes from `root_hash`."""
    return Chain(extend_chain(root, token_ids, block_size))


def byte_block_hashes(data: bytes, block_bytes: int, root: int) -> Chain:
    """The same over blocks of bytes, for prompts whose tokens are not known.

    Comparable only with other byte blocks of the same length. Raises `ValueError` for a length
    below 1.
    """
    if block_bytes < 1:
        raise ValueError(f"a block has at least one byte, not {block_bytes}")
    return Chain(_chain(root, data, block_bytes))


def chained(parent: int, data: bytes, block_size: int) -> list[int]:
    """As `extend_chain` for ids that are unsigned 32-bit numbers of this machine."""
    return _chain(parent, data if _IS_LITTLE else _packed(array(_ID_CODE, data)), 4 * block_size)


def _packed(token_ids: Sequence[int]) -> bytes:
    if isinstance(token_ids, array) and token_ids.typecode == _ID_CODE and _IS_LITTLE:
        return token_ids.tobytes()
    try:
        ids = array(_ID_CODE, token_ids)
    except (OverflowError, TypeError) as error:
        raise ValueError("token ids are integers from 0 to 2**32 - 1") from error
    if not _IS_LITTLE:
        ids.byteswap()
    return ids.tobytes()


def _chain(parent: int, data: bytes, block_bytes: int) -> list[int]:
    whole = len(data) - len(data) % block_bytes
    blocks = struct.iter_unpack(f"{block_bytes}s", memoryview(data)[:whole])
    digest = xxh3_64_intdigest
    return [parent := digest(block, parent) for (block,) in blocks]
