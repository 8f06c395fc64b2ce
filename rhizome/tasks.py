"""Owners for background tasks: the only place that creates asyncio tasks.

Promises: every task has a name, a failure is logged once and seen by the owner, and leaving the
block cancels and awaits whatever still runs. It restarts nothing: that is a decision of the owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Tasks:
    """A named set of background tasks, used as an async context manager."""

    def __init__(self, owner: str, *, close_timeout_s: float = 10.0) -> None:
        self._owner = owner
        self._close_timeout_s = close_timeout_s
        self._running: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failure: asyncio.Future[BaseException] | None = None

    def __len__(self) -> int:
        return len(self._running)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._failure = self._loop.create_future()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs `work` in the background until it ends or the owner closes."""
        loop = self._loop or asyncio.get_running_loop()
        task = loop.create_task(work, name=f"{self._owner}:{name}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def first_failure(self) -> BaseException:
        """Waits until some task has failed; returns its exception."""
        if self._failure is None:
            raise RuntimeError("enter the block before waiting for failures")
        return await asyncio.shield(self._failure)

    async def close(self) -> None:
        """Cancels what still runs and waits for it, at most `close_timeout_s`."""
        pending = set(self._running)
        for task in pending:
            task.cancel()
        if pending:
            _, late = await asyncio.wait(pending, timeout=self._close_timeout_s)
            for task in late:
                _log.error("task %s ignored its cancellation", task.get_name())
        if self._failure is not None and not self._failure.done():
            self._failure.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        _log.error("task %s failed: %r", task.get_name(), error, exc_info=error)
        if self._failure is not None and not self._failure.done():
            self._failure.set_result(error)
