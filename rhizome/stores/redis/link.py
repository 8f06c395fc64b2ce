"""The one way to the server: bounded connections, a deadline on every command, errors translated.

Promises: a command ends within `redis.command_timeout_s`, is sent at most once (a repeated write
could count twice), and fails only with `StoreUnavailable`, whose text holds neither address nor
password. Going down and coming back are logged once each.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from rhizome.errors import SettingsError, StoreUnavailable
from rhizome.settings.tree import RedisSettings

_log = logging.getLogger(__name__)
Argument = str | bytes | int | float


class Script:
    """A Lua script and the digest that the server knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


NOW_MS = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""
"""Opens scripts that need the server's time, in milliseconds."""


def milliseconds(seconds: float) -> int:
    """At least one: a lease of zero would be no lease."""
    return max(1, round(seconds * 1000))


class RedisLink:
    """Commands and scripts on one server, under one namespace."""

    def __init__(self, url: str, settings: RedisSettings, what: str = "the store") -> None:
        """`what` the server is to its users, as the log calls it."""
        self._what = what
        self._namespace = settings.namespace
        self.timeout_s = settings.command_timeout_s
        self._down = False
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=settings.connections_max,
                timeout=settings.command_timeout_s,
                socket_timeout=settings.command_timeout_s,
                socket_connect_timeout=settings.command_timeout_s,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
        except ValueError:
            # The cause would show the URL, and with it the password.
            raise SettingsError(
                "redis.url is not a valid Redis URL",
                advice="Write redis://[user]:password@host:port/0, or rediss:// for TLS.",
            ) from None
        self._client = Redis.from_pool(pool)
        self._execute: Callable[..., Awaitable[Any]] = self._client.execute_command

    def key(self, *parts: str) -> str:
        """`{namespace}:part:part`; the braces make it one slot for all keys of the namespace."""
        return ":".join(("{" + self._namespace + "}", *parts))

    async def call(self, *command: Argument) -> Any:
        """The reply to one command."""
        return await self._reply(self._execute(*command))

    async def run(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Argument] = ()
    ) -> Any:
        """The reply of a script; it reaches the server as a digest, or in full the first time."""
        return await self._reply(self._run(script, len(keys), *keys, *arguments))

    async def _run(self, script: Script, *rest: Argument) -> Any:
        try:
            return await self._execute("EVALSHA", script.digest, *rest)
        except NoScriptError:
            return await self._execute("EVAL", script.text, *rest)

    async def _reply(self, asking: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        try:
            async with asyncio.timeout(self.timeout_s):
                reply = await asking
        except (RedisError, OSError, TimeoutError) as error:
            _raise_if_swallowed(task, cancelled)
            raise self.unavailable(error) from error
        _raise_if_swallowed(task, cancelled)
        self.note_up()
        return reply

    async def close(self) -> None:
        await self._client.aclose(close_connection_pool=True)

    def subscription(self) -> PubSub:
        """A connection for subscribing, taken from the pool until it is closed."""
        subscription: PubSub = self._client.pubsub(ignore_subscribe_messages=False)
        return subscription

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """The error for callers; logs the first one in a row."""
        if not self._down:
            self._down = True
            _log.warning("%s is unavailable: %s: %s", self._what, type(error).__name__, error)
        return StoreUnavailable(f"the shared store {_failing(error)}", retry_after_s=1.0)

    def note_up(self) -> None:
        """The server answered; logs it after a failure."""
        if self._down:
            self._down = False
            _log.warning("%s is back", self._what)


def _raise_if_swallowed(task: asyncio.Task[Any], cancelled: int) -> None:
    """Cancels the task where a cancellation has been lost since it counted `cancelled` of them.

    Before Python 3.12 `asyncio.wait_for`, with which redis-py sends, loses those that come at the
    moment in which it is done.
    """
    if task.cancelling() > cancelled:
        raise asyncio.CancelledError


def _failing(error: Exception) -> str:
    """What the store did, in words that may be shown to a client."""
    said = (
        (AuthenticationError, "refuses our credentials"),
        (BusyLoadingError, "is still loading its data"),
        (OutOfMemoryError, "is out of memory"),
        (ReadOnlyError, "accepts no writes: it is a replica"),
        (ResponseError, "refused a command"),
        (RedisError, "cannot be reached"),
        (TimeoutError, "did not answer in time"),
    )
    return next((text for kind, text in said if isinstance(error, kind)), "cannot be reached")
