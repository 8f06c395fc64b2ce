"""The process that hosts one engine: `python -m workers.engine.host`, started by its worker.

It exists so that the worker's own process stays responsive and outlives the engine. It never
outlives the worker: when its orders end, it kills its process group, and every process that vLLM
spawns from it dies with its parent (Linux only; elsewhere the process group has to do).
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import os
import signal
import socket
import sys
import threading

from workers.engine.orders import Order, Report, Start, read_order, read_start, to_line

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serves until told to stop; the exit status is 0 only then."""
    # Unbuffered: the interpreter could not end while a thread waits inside a buffered reader.
    orders_in = io.FileIO(sys.stdin.fileno(), closefd=False)
    start = read_start(orders_in.readline())
    import uvloop

    sys.exit(uvloop.run(_host(start, orders_in)))


async def _host(start: Start, orders_in: io.FileIO) -> int:
    from workers.engine.vllm import serve

    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[Order] = asyncio.Queue()

    def listen() -> None:
        for line in orders_in:
            loop.call_soon_threadsafe(orders.put_nowait, read_order(line))
        _end_group()

    threading.Thread(target=listen, name="orders", daemon=True).start()
    with (
        os.fdopen(start.report_fd, "wb", buffering=0) as reports,
        socket.socket(fileno=start.listen_fd) as listener,
    ):

        def report(message: Report) -> None:
            reports.write(to_line(message))

        return await serve(start, listener, orders, report)


def _end_group() -> None:
    """The worker is gone: nothing of this engine may stay."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    # A child that vLLM spawned imports its parent's main module under this name.
    die_with_parent()
