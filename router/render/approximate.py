"""Bytes that stand for a prompt where its token ids cannot be known.

A conversation's bytes are a prefix of the bytes of the same conversation continued, so that
hashes of byte blocks find shared beginnings. They stand in for no template: tools come first,
then each message with its role. Media count by a digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import xxhash

_encoder = msgspec.json.Encoder()
_BEFORE = frozenset({"tools", "system", "instructions"})
"""Fields that come before the messages."""
_FIELDS = (
    "name",
    "tool_call_id",
    "reasoning",
    "reasoning_content",
    "tool_calls",
    "call_id",
    "arguments",
    "output",
)


def render_approximate(
    fields: Mapping[str, Any], texts: Sequence[tuple[str, str]] | None = None
) -> bytes:
    """Bytes of a body that generates, in whose API ever; never raises for a decoded JSON object.

    `texts` are role and text of its messages, if it is known that these have nothing else.
    """
    if texts is not None and _BEFORE.isdisjoint(fields):
        return ("\0" + "\0".join(chain.from_iterable(texts))).encode("utf-8", "replace")
    for conversation in ("messages", "input"):
        if conversation in fields:
            return _chat(fields, fields[conversation])
    return _prompt(fields.get("prompt"))


def _chat(fields: Mapping[str, Any], messages: Any) -> bytes:
    pieces: list[bytes] = []
    tools = fields.get("tools")
    if tools:
        pieces += [b"\x00tools\x00", _encoder.encode(tools)]
    for name in ("system", "instructions"):
        if fields.get(name):
            pieces += _message({"role": "system", "content": fields[name]})
    if isinstance(messages, str):
        pieces += _message({"role": "user", "content": messages})
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            content = message.get("content")
            if len(message) == 2 and isinstance(content, str) and "role" in message:  # as most are
                plain = f"\0{message['role']}\0{content}"
                pieces.append(plain.encode("utf-8", "replace"))
            else:
                pieces += _message(message)
    return b"".join(pieces)


def _message(message: Mapping[str, Any]) -> list[bytes]:
    pieces = [b"\x00", str(message.get("role")).encode("utf-8", "replace"), b"\x00"]
    content = message.get("content")
    for name in _FIELDS:
        value = message.get(name)
        if value:
            text = value.encode("utf-8", "replace") if isinstance(value, str) else None
            pieces += [name.encode(), b"\x00", _encoder.encode(value) if text is None else text]
    for part in content if isinstance(content, list) else (content,):
        pieces.append(_part(part))
    return pieces


def _part(part: Any) -> bytes:
    if part is None:
        return b""
    if isinstance(part, str):
        return part.encode("utf-8", "replace")
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"]).encode("utf-8", "replace")
    return b"\x00" + xxhash.xxh3_64_digest(_encoder.encode(part))


def _prompt(prompt: Any) -> bytes:
    if isinstance(prompt, str):
        return prompt.encode("utf-8", "replace")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return _prompt(prompt[0])
    if isinstance(prompt, list):
        return b"".join(_word(token) for token in prompt if isinstance(token, int))
    return b""


def _word(token: int) -> bytes:
    return (token & 0xFFFFFFFF).to_bytes(4, "little")
