"""The Ray head of a local cluster: `ray start --head --block` as a child process.

Promises: every socket on 127.0.0.1, a generated token demanded by all of them, no dashboard page,
no Ray client server, no usage reports, sockets and logs in the cluster's own directory, so that
clusters run side by side. A child rather than `ray.init` in the supervisor: Ray then binds all it
starts to one process that ends them, and the supervisor stays free of Ray's threads.
"""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.local.layout import ClusterFiles, write_private
from cluster.local.processes import ChildProcess
from rhizome.clock import Clock
from rhizome.errors import ClusterError, MissingDependency
from rhizome.ids import new_key

_STARTED = "Ray runtime started"
_PORT_TAKEN = "Failed to start the grpc server. The specified port is"
_READY_TIMEOUT_S = 60.0
_POLL_S = 0.05
_OBJECT_STORE_BYTES = 80_000_000  # nothing but small calls goes through Ray; its least is 75 MB


def ray_environment(token: Path) -> dict[str, str]:
    """What every process needs in its environment to speak with the cluster's Ray."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray then takes 127.0.0.1 for this node's address and listens nowhere else.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_START_HOOK": f"{__name__}.leave_out_client_server",
    }


def leave_out_client_server(parameters: Any, _head: bool) -> None:
    """Ray's own hook: `ray start` has no flag that leaves its client server out."""
    parameters.ray_client_server_port = None


class RayPortTaken(ClusterError):
    """Somebody took the port between its choice and its use: another one will do."""


class RayHead:
    """Ray's processes on this machine; launched and stopped once."""

    def __init__(
        self, files: ClusterFiles, port: int, *, environment: Mapping[str, str], clock: Clock
    ) -> None:
        """`environment` includes `ray_environment`."""
        self._files = files
        self._port = port
        self._clock = clock
        self._directory: Path | None = None
        self._environment = environment
        self.child: ChildProcess | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def launch(self) -> None:
        """Starts Ray's processes; raises `MissingDependency` without Ray."""
        program = Path(sys.executable).with_name("ray")
        if not program.is_file():
            raise MissingDependency(
                "the local cluster needs Ray", advice="Install `rhizome[cluster]`."
            )
        write_private(self._files.ray_token, new_key() + "\n")
        self._directory = self._files.ray_directory()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(mode=0o700, parents=True)
        self._files.log("ray").unlink(missing_ok=True)
        self.child = ChildProcess(
            "ray",
            [str(program), *self._arguments(self._directory)],
            environment=self._environment,
            log=self._files.log("ray"),
            clock=self._clock,
        )
        self.child.start()

    async def wait_started(self) -> None:
        """Returns when a driver may connect; raises `RayPortTaken` or another `ClusterError`."""
        child = self._launched()
        deadline_s = self._clock.monotonic_s() + _READY_TIMEOUT_S
        while self._clock.monotonic_s() < deadline_s:
            self.check()
            if _STARTED in child.log_tail(60) and _listens(self._port):
                return
            await self._clock.sleep(_POLL_S)
        raise ClusterError(
            f"Ray did not start within {_READY_TIMEOUT_S:.0f} s", advice=f"See {child.log}."
        )

    def check(self) -> None:
        """Raises `RayPortTaken` or another `ClusterError` when Ray has ended: its workers have
        ended with it."""
        child = self._launched()
        if not child.running():
            taken = _PORT_TAKEN in child.log_tail(60)
            raise (RayPortTaken if taken else ClusterError)(
                f"Ray {child.explain_exit()}. The end of its log:\n{child.log_tail()}",
                advice=f"See {child.log} and the logs in {self._directory}.",
            )

    async def stop(self, grace_s: float) -> None:
        if self.child is not None:
            await self.child.stop(grace_s)
        self._files.ray_token.unlink(missing_ok=True)
        if self._directory is not None and self._directory.parent != self._files.root:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _arguments(self, directory: Path) -> list[str]:
        return [
            *("start", "--head", "--block", "--no-monitor", "--disable-usage-stats"),
            *("--node-ip-address", "127.0.0.1", "--port", str(self._port)),
            *("--temp-dir", str(directory)),
            *("--include-dashboard", "false", "--include-log-monitor", "false"),
            *("--object-store-memory", str(_OBJECT_STORE_BYTES)),
        ]

    def _launched(self) -> ChildProcess:
        if self.child is None:
            raise RuntimeError("Ray has not been launched")
        return self.child


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
