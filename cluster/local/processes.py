"""One child process of the supervisor: started with a log file, watched, ended with a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from rhizome.children import bound_to_parent
from rhizome.clock import Clock
from rhizome.logs import redact

_POLL_S = 0.05


class ChildProcess:
    """A command in a session of its own, so that only the supervisor decides when it ends.

    Its output goes to the end of `log`. It is told to end when the supervisor is gone (Linux).
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        clock: Clock,
    ) -> None:
        """`command` begins with an absolute path."""
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0
        """When it was last started, monotonic."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts it (again); it must not run."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                bound_to_parent(self._command),
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        self.started_s = self._clock.monotonic_s()

    def exit_code(self) -> int | None:
        """None while it runs or was never started; negative is the number of a signal."""
        return None if self._process is None else self._process.poll()

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def stop(self, grace_s: float) -> bool:
        """SIGTERM, and SIGKILL after `grace_s`; True when the former was enough."""
        process = self._process
        if process is None or process.poll() is not None:
            return True
        process.terminate()
        deadline_s = self._clock.monotonic_s() + grace_s
        while process.poll() is None and self._clock.monotonic_s() < deadline_s:
            await self._clock.sleep(_POLL_S)
        if process.poll() is not None:
            return True
        process.kill()
        process.wait()
        return False

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def explain_exit(self) -> str:
        """How it ended, in words."""
        code = self.exit_code()
        if code is None:
            return "is running"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    def log_tail(self, line_count: int = 12) -> str:
        """The last lines of its log, secrets removed."""
        return log_tail(self.log, line_count)


def log_tail(log: Path, line_count: int) -> str:
    """The last lines of a log file, secrets removed; empty where there is none."""
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            return redact("".join(deque(lines, maxlen=line_count))).rstrip()
    except OSError:
        return ""
