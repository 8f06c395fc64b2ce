"""One started router process, as its watcher sees it."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

from rhizome.children import bound_to_parent
from rhizome.clock import Clock
from router.processes.orders import READY, Order, written

_COMMAND = ("-m", "router.processes.child")


@dataclass(slots=True)
class Process:
    """A running process; `begin` makes it, and `ended` pairs with that."""

    number: int
    metrics_port: int
    admin_port: int | None
    begun_at_s: float
    child: asyncio.subprocess.Process
    silent: int = 0
    """Times in a row that its metrics page did not come."""
    is_leaving: bool = False
    """It was told to stop."""

    @staticmethod
    async def begin(
        order: Order, metrics: socket.socket, admin: socket.socket | None, clock: Clock
    ) -> Process:
        """Starts it and hands it the order; the caller closes its copies of the sockets."""
        fds = [order.api_fd, order.metrics_fd]
        if order.admin_fd is not None:
            fds.append(order.admin_fd)
        child = await asyncio.create_subprocess_exec(
            *bound_to_parent([sys.executable, *_COMMAND]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=fds,
            start_new_session=True,  # a Ctrl-C in the terminal is for the watcher
        )
        process = Process(
            number=order.number,
            metrics_port=metrics.getsockname()[1],
            admin_port=None if admin is None else admin.getsockname()[1],
            begun_at_s=clock.monotonic_s(),
            child=child,
        )
        assert child.stdin is not None
        with suppress(ConnectionError):  # it ended at once: seen by whoever waits for it
            child.stdin.write(written(order))
            await child.stdin.drain()
        return process

    async def is_ready(self, wait_s: float) -> bool:
        """Whether it serves; False when it ended or did not come so far in time."""
        assert self.child.stdout is not None
        try:
            async with asyncio.timeout(wait_s):
                return await self.child.stdout.readline() == READY
        except TimeoutError:
            return False

    def stop(self) -> None:
        """Lets it finish what it answers; `cut` ends it anyway."""
        self.is_leaving = True
        self._signal(signal.SIGTERM)

    def cut(self) -> None:
        """Ends it now."""
        self._signal(signal.SIGKILL)

    async def ended(self, wait_s: float | None = None) -> bool:
        """Waits for its end; False if it still runs after `wait_s`."""
        try:
            async with asyncio.timeout(wait_s):
                await self.child.wait()
        except TimeoutError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self.child.returncode is None:
            with suppress(ProcessLookupError):
                self.child.send_signal(number)
