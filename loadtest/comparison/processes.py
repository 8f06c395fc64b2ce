"""The programs of one run: started with a log each, waited for, measured, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import psutil

from cluster.local.processes import ChildProcess
from rhizome.clock import Clock
from rhizome.errors import TargetUnusable
from rhizome.settings.load import environment_copy

_POLL_S = 0.1
_STOP_GRACE_S = 0.0
"""There is nothing that any of them would have to finish."""
_LOG_LINES = 8


class Usage(NamedTuple):
    """What a program has used of the machine."""

    cpu_s: float
    rss_bytes: int
    """Resident memory now; pages that its processes share count for each."""


class Program:
    """A program that serves until the block is left; what it started goes with it."""

    def __init__(self, name: str, command: list[str], log: Path, clock: Clock) -> None:
        """`command` begins with an absolute path."""
        self._name = name
        self._clock = clock
        environment = environment_copy()
        self._child = ChildProcess(name, command, environment=environment, log=log, clock=clock)

    async def __aenter__(self) -> Self:
        self._child.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        family = self._child.pid
        assert family is not None, "it was started"
        await asyncio.shield(self._child.stop(_STOP_GRACE_S))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(family, signal.SIGKILL)

    async def until(self, ready: Callable[[], Awaitable[bool]], timeout_s: float) -> None:
        """Waits until `ready`; raises `TargetUnusable` when it ends or is not ready in time."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while not await ready():
            if not self._child.running():
                raise self._unusable(self._child.explain_exit())
            if self._clock.monotonic_s() > deadline_s:
                raise self._unusable(f"was not ready within {timeout_s:g} s")
            await self._clock.sleep(_POLL_S)

    def usage(self) -> Usage:
        """Of it and its children, so far; raises `TargetUnusable` if it is gone."""
        try:
            process = psutil.Process(self._child.pid)
            family = [process, *process.children(recursive=True)]
            times = [one.cpu_times() for one in family]
            resident = [one.memory_info().rss for one in family]
        except psutil.NoSuchProcess as error:
            raise self._unusable(self._child.explain_exit()) from error
        return Usage(float(sum(one.user + one.system for one in times)), sum(resident))

    def _unusable(self, why: str) -> TargetUnusable:
        return TargetUnusable(f"{self._name} {why}", advice=self._child.log_tail(_LOG_LINES))
