"""Opens the stores that the settings ask for: on a Redis server, or in this process."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rhizome.clock import Clock, SystemClock
from rhizome.errors import StoreUnavailable, StoreUnreachable
from rhizome.settings.tree import RedisSettings
from rhizome.stores.broadcast import Broadcast
from rhizome.stores.desired import DesiredState
from rhizome.stores.documents import Documents
from rhizome.stores.lease import Lease
from rhizome.stores.lines import LineQueue
from rhizome.stores.memory.broadcast import MemoryBroadcast
from rhizome.stores.memory.desired import MemoryDesiredState
from rhizome.stores.memory.documents import MemoryDocuments
from rhizome.stores.memory.lease import MemoryLease
from rhizome.stores.memory.lines import MemoryLineQueue
from rhizome.stores.memory.registry import MemoryRegistry
from rhizome.stores.memory.responses import MemoryStoredResponses
from rhizome.stores.memory.signals import MemorySignalBoard
from rhizome.stores.redis.broadcast import RedisBroadcast
from rhizome.stores.redis.desired import RedisDesiredState
from rhizome.stores.redis.documents import RedisDocuments
from rhizome.stores.redis.lease import RedisLease
from rhizome.stores.redis.lines import RedisLineQueue
from rhizome.stores.redis.link import RedisLink
from rhizome.stores.redis.registry import RedisRegistry
from rhizome.stores.redis.responses import RedisStoredResponses
from rhizome.stores.redis.signals import RedisSignalBoard
from rhizome.stores.registry import Registry
from rhizome.stores.responses import StoredResponses
from rhizome.stores.signals import SignalBoard

_log = logging.getLogger(__name__)
_DEAD_LETTERS_MAX = 1000
_RESPONSES_MAX = 1000
_PEERS_TIMEOUT_S = 0.5
_PEERS_CONNECTIONS_MAX = 4
_SERVER_VERSION_MIN = (7, 0)


async def _nothing() -> None:
    """An in-memory store is always there and needs no closing."""


@dataclass(frozen=True)
class Stores:
    """All stores of one namespace."""

    registry: Registry
    desired: DesiredState
    signals: SignalBoard
    lines: LineQueue
    documents: Documents
    lease: Lease
    responses: StoredResponses
    peers: Broadcast
    """What routers tell each other; late news are none, so it gives up sooner than the others."""
    shared: bool = False
    """Whether other processes see the same state, and a restart finds it again."""
    ping: Callable[[], Awaitable[None]] = _nothing
    """Returns when the store answers; raises `StoreUnavailable`."""
    close: Callable[[], Awaitable[None]] = _nothing
    """Closes all connections."""


async def open_stores(
    settings: RedisSettings, *, clock: Clock | None = None, verify: bool = True
) -> Stores:
    """The stores at `settings.url`, or in-memory ones (timed by `clock`) where there is no URL.

    Raises `SettingsError` for an invalid URL. With `verify` (for everything that needs the store to
    do its work) raises `StoreUnreachable` when the server does not answer, refuses the password, is
    too old, is a replica or may evict what it was given to keep.
    """
    if settings.url is None:
        return _in_memory(clock or SystemClock())
    link = RedisLink(settings.url.get_secret_value(), settings)
    if verify:
        try:
            await _verify(link)
        except BaseException:
            await link.close()
            raise

    peers_link = _peers_link(settings.url.get_secret_value(), settings)

    async def ping() -> None:
        await link.call("PING")

    async def close() -> None:
        await peers_link.close()
        await link.close()

    return Stores(
        registry=RedisRegistry(link),
        desired=RedisDesiredState(link),
        signals=RedisSignalBoard(link),
        lines=RedisLineQueue(link, _DEAD_LETTERS_MAX),
        documents=RedisDocuments(link),
        responses=RedisStoredResponses(link, settings.responses_max),
        lease=RedisLease(link),
        peers=RedisBroadcast(peers_link, "peers"),
        shared=True,
        ping=ping,
        close=close,
    )


def _peers_link(url: str, settings: RedisSettings) -> RedisLink:
    """Connections of its own, so that neither waits for the other."""
    changes = {
        "command_timeout_s": min(_PEERS_TIMEOUT_S, settings.command_timeout_s),
        "connections_max": _PEERS_CONNECTIONS_MAX,
    }
    return RedisLink(url, settings.model_copy(update=changes), "the channel between routers")


def _in_memory(clock: Clock) -> Stores:
    return Stores(
        registry=MemoryRegistry(clock),
        desired=MemoryDesiredState(clock),
        signals=MemorySignalBoard(clock),
        lines=MemoryLineQueue(clock, _DEAD_LETTERS_MAX),
        documents=MemoryDocuments(),
        responses=MemoryStoredResponses(clock, _RESPONSES_MAX),
        lease=MemoryLease(clock),
        peers=MemoryBroadcast(),
    )


async def _verify(link: RedisLink) -> None:
    try:
        facts: dict[str, Any] = await link.call("INFO")
    except StoreUnavailable as error:
        raise StoreUnreachable(
            f"cannot use the Redis at redis.url: {error.message}",
            advice="Check address and password in `redis.url`, and that the server runs.",
        ) from error
    version = str(facts.get("redis_version", "0.0"))
    if tuple(int(part) for part in version.split(".")[:2]) < _SERVER_VERSION_MIN:
        raise StoreUnreachable(
            f"the server at redis.url is version {version}",
            advice="Use Redis 7.0 or later, or Valkey.",
        )
    if facts.get("role") in ("slave", "replica"):
        raise StoreUnreachable(
            "the server at redis.url is a read-only replica",
            advice="Point `redis.url` at the primary.",
        )
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreUnreachable(
            f"the server at redis.url may evict keys (maxmemory-policy {policy})",
            advice="Set `maxmemory-policy noeviction` on it: batches must not vanish.",
        )
    if not facts.get("aof_enabled"):
        _log.warning(
            "the server at redis.url keeps no append-only file: "
            "what was written since its last snapshot is lost when it stops"
        )
