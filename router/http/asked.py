"""What the head of a request for an engine says, read and checked before its body is.

The next request on a connection mostly has the same head but for the length of its body. It is read
once for all of them, until the keys change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from rhizome.errors import BodyTooLarge, InvalidRequest, RequestError
from rhizome.errors import UnsupportedMediaType as WrongType
from router.admission.classes import Priority
from router.http.server.exchange import Head
from router.keys import ANONYMOUS, KeyRing, Principal

_PATIENCE_S_MAX = 86_400
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_PRIORITIES = {one.value.encode(): one for one in Priority}


class Asked(msgspec.Struct, kw_only=True):
    """What is asked for, by whom and how; without a refusal all of it is checked."""

    keys_version: int
    media_type: str
    """What the body was required to be."""
    offered_id: str | None
    expects_continue: bool
    length: int | None
    """Of the body, as the head announced it that was read."""
    principal: Principal = ANONYMOUS
    content_type: str = ""
    priority: Priority = Priority.INTERACTIVE
    patience_s: float | None = None
    """How long the client waits, if it says so."""
    trace: dict[str, str] = {}
    """The W3C trace context to pass on."""
    refusal: RequestError | None = None


def asked_of(head: Head, media_type: str, keys: KeyRing, body_bytes_max: int) -> Asked:
    """What the head says, remembered with it if there is nothing to refuse."""
    known = head.read
    if (
        isinstance(known, Asked)
        and known.keys_version == keys.version
        and known.media_type == media_type
    ):
        return known
    headers = dict(head.headers)
    offered = headers.get(b"x-request-id")
    asked = Asked(
        keys_version=keys.version,
        media_type=media_type,
        offered_id=None if offered is None else offered.decode("latin-1"),
        expects_continue=headers.get(b"expect", b"").lower() == b"100-continue",
        length=int(headers[b"content-length"]) if b"content-length" in headers else None,
    )
    try:
        _check(asked, headers, keys)
        if asked.length is not None and asked.length > body_bytes_max:
            raise too_large(body_bytes_max)
    except RequestError as error:
        asked.refusal = error
    else:
        head.read = asked
    return asked


def too_large(body_bytes_max: int) -> BodyTooLarge:
    """The refusal of a longer body."""
    return BodyTooLarge(
        f"the body is longer than {body_bytes_max} bytes, the limit of this server "
        "(router.relay.body_bytes_max)"
    )


def _check(asked: Asked, headers: Mapping[bytes, bytes], keys: KeyRing) -> None:
    asked.principal = _principal(keys, headers)
    content_type, wanted = headers.get(b"content-type", b"").decode("latin-1"), asked.media_type
    if content_type != wanted:
        kind = content_type.partition(";")[0].strip().lower()
        if kind != wanted:
            raise WrongType(
                f"send the body as 'Content-Type: {wanted}', not {kind or 'without a type'!r}"
            )
    asked.content_type = content_type
    priority = _PRIORITIES.get(headers.get(b"x-rhizome-priority", b"interactive"))
    if priority is None:
        known = ", ".join(one.value for one in Priority)
        raise InvalidRequest(
            f"x-rhizome-priority must be one of {known}", param="x-rhizome-priority"
        )
    asked.priority = priority
    asked.patience_s = _patience_s(headers.get(b"x-request-timeout"))
    asked.trace = {
        name.decode(): headers[name].decode("latin-1") for name in _TRACE_HEADERS if name in headers
    }


def _principal(keys: KeyRing, headers: Mapping[bytes, bytes]) -> Principal:
    """By the header of OpenAI's clients, or by that of Anthropic's."""
    authorization, key = headers.get(b"authorization"), headers.get(b"x-api-key")
    if authorization is None and key is not None:
        return keys.check_key(key)
    return keys.check(authorization)


def _patience_s(asked: bytes | None) -> float | None:
    """How long the client waits, if it says so in `x-request-timeout`."""
    if asked is None:
        return None
    try:
        patience_s = float(asked)
    except ValueError:
        patience_s = math.nan
    if not 0 < patience_s <= _PATIENCE_S_MAX:
        raise InvalidRequest(
            f"x-request-timeout must be a number of seconds, above 0 and up to {_PATIENCE_S_MAX}",
            param="x-request-timeout",
        )
    return patience_s
