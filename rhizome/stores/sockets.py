"""The broadcast between processes of one machine: a directory with a datagram socket per listener.

Needs no server: whoever may write to the directory (its owner) may speak. A listener that is gone
leaves a file, which the next publisher removes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from rhizome.errors import StoreUnavailable
from rhizome.ids import new_id
from rhizome.stores.broadcast import MESSAGE_BYTES_MAX, Listener
from rhizome.stores.memory.broadcast import QueueListener

_BUFFER_BYTES = 1 << 20
_FULL_RETRIES = 10
_FULL_PAUSE_S = 0.005
_DRAINED_AT_ONCE = 64
_FULL = (errno.EAGAIN, errno.ENOBUFS)
_GONE = (errno.ECONNREFUSED, errno.ENOENT)


class SocketBroadcast:
    """A `Broadcast` among the processes that are given the same directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def publish(self, message: bytes) -> None:
        sender = _socket()
        with sender:
            full = [path for path in self._listeners() if not _sent(sender, path, message)]
            for _ in range(_FULL_RETRIES):
                if not full:
                    return
                await asyncio.sleep(_FULL_PAUSE_S)
                full = [path for path in full if not _sent(sender, path, message)]

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        path = self._directory / f"{new_id('listener')}.sock"
        receiver = _socket()
        with receiver:
            try:
                receiver.bind(str(path))
            except OSError as error:
                raise StoreUnavailable(f"cannot listen in {path.parent}: {error}") from error
            listener, loop = QueueListener(), asyncio.get_running_loop()
            loop.add_reader(receiver, _drain, receiver, listener)
            try:
                yield listener
            finally:
                loop.remove_reader(receiver)
                path.unlink(missing_ok=True)

    def _listeners(self) -> list[Path]:
        try:
            names = os.listdir(self._directory)
            return [self._directory / name for name in names if name.endswith(".sock")]
        except OSError as error:
            raise StoreUnavailable(f"cannot read {self._directory}: {error}") from error


def _drain(receiver: socket.socket, listener: QueueListener) -> None:
    """Takes over what the kernel holds: it keeps few messages, and its bound is not ours to set."""
    with suppress(OSError):
        for _ in range(_DRAINED_AT_ONCE):
            listener.offer(receiver.recv(MESSAGE_BYTES_MAX))


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        made.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return made


def _sent(sender: socket.socket, path: Path, message: bytes) -> bool:
    """False if the listener has too much to read already."""
    try:
        sender.sendto(message, str(path))
    except OSError as error:
        if error.errno in _FULL:
            return False
        if error.errno not in _GONE:
            raise StoreUnavailable(f"the message cannot be sent: {error}") from error
        path.unlink(missing_ok=True)
    return True
