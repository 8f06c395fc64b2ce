"""One small question to a worker's HTTP app, with a deadline and a bound on the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import aiohttp

_PORTION_BYTES = 64 * 1024
_NONE: Mapping[str, str] = MappingProxyType({})


class WorkerSilent(Exception):
    """The worker gave no usable answer; the text says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one worker; `api_key` goes along with every question."""

    session: aiohttp.ClientSession
    url: str
    api_key: str | None
    timeout_s: float

    async def get(self, path: str, bytes_max: int) -> tuple[int, bytes]:
        """Status and body; raises `WorkerSilent`. Redirects and compression are not followed."""
        return await self._ask("GET", path, bytes_max)

    async def post(
        self, path: str, body: bytes, bytes_max: int, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Sends JSON; as `get` otherwise."""
        typed = {**headers, "content-type": "application/json"}
        return await self._ask("POST", path, bytes_max, body, typed)

    async def _ask(
        self,
        method: str,
        path: str,
        bytes_max: int,
        body: bytes | None = None,
        headers: Mapping[str, str] = _NONE,
    ) -> tuple[int, bytes]:
        sent = {**headers, "accept-encoding": "identity"}
        if self.api_key is not None:
            sent["authorization"] = f"Bearer {self.api_key}"
        try:
            async with self.session.request(
                method,
                self.url + path,
                data=body,
                headers=sent,
                timeout=aiohttp.ClientTimeout(total=self.timeout_s),
                allow_redirects=False,
                auto_decompress=False,
            ) as response:
                return response.status, await _bounded(response, bytes_max)
        except TimeoutError as error:
            raise WorkerSilent(f"{path}: no answer within {self.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise WorkerSilent(f"{path}: {_in_short(error)}") from error

    async def get_json(self, path: str, bytes_max: int) -> tuple[int, Any]:
        """Status and decoded body; None as body where the status is not 200."""
        status, body = await self.get(path, bytes_max)
        if status != 200:
            return status, None
        try:
            return status, json.loads(body)
        except (ValueError, RecursionError) as error:
            raise WorkerSilent(f"{path}: the answer is not JSON") from error


async def _bounded(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(_PORTION_BYTES):
        size += len(part)
        if size > bytes_max:
            raise WorkerSilent(f"the answer is longer than {bytes_max} bytes")
        parts.append(part)
    return b"".join(parts)


def _in_short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[:200]
