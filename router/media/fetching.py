"""Fetches media for requests, from listed hosts and public addresses only.

A name is resolved once, and the connection goes to exactly the addresses that were checked, so
that a name cannot point elsewhere in between. Redirects are not followed; size, time, number and
type are bounded.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec.structs import replace
from yarl import URL

from rhizome.errors import MediaRefused, MediaUnavailable
from rhizome.settings.tree import MediaSettings
from router.http.bodies import EngineBody
from router.media.addresses import is_outside
from router.media.references import may_refer, references, replaced

_KINDS = ("image/", "audio/", "video/", "application/pdf")
_ANY = "*"
_ADDRESSES_MAX = 8


class _CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to; any other one spoils the name."""

    def __init__(self, may_connect: Callable[[str], bool]) -> None:
        self._may_connect = may_connect

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for kind, _, protocol, _, address in found[:_ADDRESSES_MAX]:
            if not self._may_connect(str(address[0])):
                raise MediaRefused(f"{host} is not a public address", param="messages")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=str(address[0]),
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing to close."""


class MediaFetcher:
    """Replaces the URLs of media in bodies by what is behind them."""

    def __init__(
        self, settings: MediaSettings, may_connect: Callable[[str], bool] = is_outside
    ) -> None:
        self._settings = settings
        self._may_connect = may_connect
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        self._turns = asyncio.Semaphore(settings.concurrency)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        if self._hosts:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_CheckedResolver(self._may_connect), use_dns_cache=False
                ),
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def may_inline(self, body: EngineBody) -> bool:
        """Whether `inlined` may change the body: a quick look, False is certain."""
        return may_refer(body.fields, beside=None if body.texts is None else "messages")

    async def inlined(self, body: EngineBody) -> EngineBody:
        """The body without URLs of media; raises `MediaRefused` or `MediaUnavailable`."""
        if not self.may_inline(body):
            return body
        urls = references(body.fields)
        if not urls:
            return body
        if len(urls) > self._settings.references_max:
            raise MediaRefused(
                f"send at most {self._settings.references_max} media by URL in one request",
                param=body.prompt_param,
            )
        fetched = await asyncio.gather(*(self._fetched(url, body.prompt_param) for url in urls))
        by_url = dict(zip(urls, fetched, strict=True))
        return replace(body, fields=replaced(body.fields, by_url.__getitem__), is_changed=True)

    async def _fetched(self, text: str, param: str) -> str:
        url = self._checked(text, param)
        assert self._session is not None
        try:
            async with self._turns, self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise MediaUnavailable(
                        f"{url.host} answered {answer.status}; redirects are not followed",
                        param=param,
                    )
                kind = answer.content_type
                if not kind.startswith(_KINDS):
                    raise MediaUnavailable(
                        f"{url.host} sent {kind}, which is no media", param=param
                    )
                content = await self._read(answer, param)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise MediaUnavailable(f"cannot fetch from {url.host}", param=param) from error
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    async def _read(self, answer: aiohttp.ClientResponse, param: str) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in answer.content.iter_chunked(64 * 1024):
            size += len(part)
            if size > self._settings.bytes_max:
                raise MediaUnavailable(
                    f"the media is longer than {self._settings.bytes_max} bytes", param=param
                )
            parts.append(part)
        return b"".join(parts)

    def _checked(self, text: str, param: str) -> URL:
        """The URL, if it may be fetched; whether its name leads outside is seen on connecting."""
        if not self._hosts:
            raise MediaRefused(
                "media by URL are off on this server (router.media.hosts); "
                "send the data itself as a 'data:' URL",
                param=param,
            )
        try:
            url = URL(text)
        except (ValueError, TypeError) as error:
            raise MediaRefused("a URL of media cannot be read", param=param) from error
        host = (url.host or "").lower().rstrip(".")
        if url.scheme not in ("http", "https") or not host:
            raise MediaRefused("a URL of media must begin with https:// or http://", param=param)
        if url.user is not None or url.password is not None or "\\" in text:
            raise MediaRefused("a URL of media must not name a user", param=param)
        if _ANY not in self._hosts and host not in self._hosts:
            raise MediaRefused(f"media from {host!r} are not allowed on this server", param=param)
        if _is_numeric(host) and not self._may_connect(host):
            raise MediaRefused(f"{host} is not a public address", param=param)
        return url


def _is_numeric(host: str) -> bool:
    """Whether the host is an address, which is connected to without being resolved."""
    return ":" in host or host.replace(".", "").isdigit()
