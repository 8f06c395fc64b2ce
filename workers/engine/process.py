"""A vLLM engine as its worker sees it: a host process, an event relay, and what came of them.

The host runs in a session of its own and is told everything through a pipe. Whatever way it ends,
its whole process group is killed before it is reaped, so that no EngineCore stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import zmq

from rhizome.errors import EngineFailed
from rhizome.fleet.models import ModelSpec
from rhizome.settings.cluster import WorkerSettings
from workers.addresses import http_url, reachable_host
from workers.demo_models import ensure_model
from workers.engine.arguments import engine_arguments, engine_environment, publishes_events
from workers.engine.base import EngineFacts, Say
from workers.engine.causes import cause_of
from workers.engine.orders import (
    Dead,
    Drain,
    Idle,
    Order,
    Report,
    Serving,
    Start,
    Stop,
    read_report,
    to_line,
)
from workers.event_relay import EventRelay

_log = logging.getLogger(__name__)
_output = logging.getLogger("engine")

T = TypeVar("T")

_TAIL_LINES = 400
_STOP_S = 15.0
_REPORT_SLACK_S = 5.0


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What a host process is started with besides the model."""

    settings: WorkerSettings
    models_directory: Path
    """Where demonstration models are kept."""
    environment: Mapping[str, str]
    """The worker's own environment."""


class VllmEngine:
    """One start of one vLLM engine group behind `listener` (see `Engine` for the promises)."""

    def __init__(
        self, spec: ModelSpec, options: HostOptions, listener: socket.socket, api_key: str | None
    ) -> None:
        self._spec = spec
        self._options = options
        self._listener = listener
        self._api_key = api_key
        self._host: _Host | None = None
        self._relay: EventRelay | None = None

    async def start(self, say: Say) -> EngineFacts:
        say("preparing the model")
        model = await self._find_model(say)
        relay = self._relay = self._open_relay()
        arguments = engine_arguments(
            self._spec, str(model), relay.publisher_config() if relay else None
        )
        environment = engine_environment(
            self._spec, self._options.environment, model_is_local=model.is_dir()
        )
        say("starting the engine")
        self._host = _Host(asyncio.get_running_loop())
        self._host.start(arguments, environment, self._listener, self._api_key)
        serving = await self._host.serving()
        _log.info(
            "engine of %s serves: %s KV blocks of %s tokens",
            self._spec.name,
            serving.kv_blocks,
            serving.block_size,
        )
        if relay is not None:
            relay.expect_blocks(serving.kv_blocks)
        return self._facts(serving, model)

    async def wait_dead(self) -> str:
        return await self._started().dead()

    async def drain(self, grace_s: float) -> bool:
        return await self._started().drain(grace_s)

    async def stop(self) -> None:
        if self._host is not None:
            await self._host.stop()
        self._listener.close()
        if self._relay is not None:
            self._relay.stop()

    def _started(self) -> _Host:
        if self._host is None:
            raise RuntimeError("the engine has not been started")
        return self._host

    async def _find_model(self, say: Say) -> Path:
        loop = asyncio.get_running_loop()

        def progress(phase: str, share: float) -> None:
            loop.call_soon_threadsafe(say, f"{phase} ({share:.0%})")

        return await asyncio.to_thread(
            ensure_model, self._spec.source, self._options.models_directory, progress
        )

    def _open_relay(self) -> EventRelay | None:
        if not publishes_events(self._spec):
            return None
        settings = self._options.settings
        try:
            relay = EventRelay(
                settings.host,
                reachable_host(settings.host),
                self._spec.parallel.data,
                settings.event_ring_batches,
            )
        except zmq.ZMQError as error:
            raise EngineFailed(f"cannot open the KV event sockets: {error}") from error
        relay.start()
        return relay

    def _facts(self, serving: Serving, model: Path) -> EngineFacts:
        return EngineFacts(
            url=http_url(
                reachable_host(self._options.settings.host), self._listener.getsockname()[1]
            ),
            api_key=self._api_key,
            events=self._relay.sources if self._relay is not None else (),
            model_root=str(model),
            block_size=serving.block_size,
            kv_blocks=serving.kv_blocks,
            redoes_last_block=serving.redoes_last_block,
            chunk_tokens=serving.chunk_tokens,
            max_model_len=serving.max_model_len,
            max_num_seqs=serving.max_num_seqs,
            data_parallel=serving.data_parallel,
            generates=serving.generates,
        )


class _Host:
    """The host process: its pipes, its reports, its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._serving: asyncio.Future[Serving] = loop.create_future()
        self._idle: asyncio.Future[bool] = loop.create_future()
        self._dead: asyncio.Future[str] = loop.create_future()
        self._exited: asyncio.Future[int] = loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def start(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        listener: socket.socket,
        api_key: str | None,
    ) -> None:
        report_in, report_out = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "workers.engine.host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(listener.fileno(), report_out),
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            os.close(report_in)
            raise EngineFailed(f"cannot start the engine's process: {error}") from error
        finally:
            os.close(report_out)
        order = Start(
            arguments=arguments,
            api_key=api_key,
            listen_fd=listener.fileno(),
            report_fd=report_out,
        )
        self._send(order)
        for name, work in (("output", self._read_output), ("reports", self._read_reports)):
            argument = (report_in,) if name == "reports" else ()
            threading.Thread(target=work, args=argument, name=f"host-{name}", daemon=True).start()

    async def serving(self) -> Serving:
        """The first report; raises `EngineFailed` when the host ends without it."""
        await self._first(self._serving, timeout_s=None)
        if self._serving.done():
            return self._serving.result()
        raise EngineFailed(
            f"the engine did not start: {self._dead.result()}",
            advice="The lines that the engine wrote before are in the worker's log.",
        )

    async def dead(self) -> str:
        return await asyncio.shield(self._dead)

    async def drain(self, grace_s: float) -> bool:
        self._idle = self._loop.create_future()
        self._send(Drain(grace_s=grace_s))
        await self._first(self._idle, timeout_s=grace_s + _REPORT_SLACK_S)
        return self._idle.done() and self._idle.result()

    async def stop(self) -> None:
        if self._process is None or self._process.stdin is None:
            return
        self._stopping = True
        if self._serving.done():
            self._send(Stop())
            await asyncio.wait({self._exited}, timeout=_STOP_S)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # the end of its orders ends the host
        await asyncio.wait({self._exited}, timeout=_STOP_S)
        if not self._exited.done():
            _kill_group(self._process.pid)
            await asyncio.shield(self._exited)

    async def _first(self, awaited: asyncio.Future[Any], timeout_s: float | None) -> None:
        """Waits for the report, the host's end or the timeout."""
        either: set[asyncio.Future[Any]] = {awaited, self._dead}
        await asyncio.wait(either, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    def _send(self, order: Start | Order) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(to_line(order))
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            _log.debug("the engine's process has ended; it does not hear %s", type(order).__name__)

    def _read_output(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with self._process.stdout as lines:
            for raw in lines:
                line = raw.decode("utf-8", "replace").rstrip()
                self._tail.append(line)
                _output.info("%s", line)

    def _read_reports(self, report_in: int) -> None:
        """Hands reports to the loop until the host ends; then ends its whole group and reaps it."""
        process = self._process
        if process is None:
            return
        with os.fdopen(report_in, "rb") as reports:
            for line in reports:
                self._on_loop(self._reported, read_report(line))
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _kill_group(process.pid)
        self._on_loop(self._ended, process.wait())

    def _on_loop(self, what: Callable[[T], None], argument: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(what, argument)

    def _reported(self, report: Report) -> None:
        if isinstance(report, Serving) and not self._serving.done():
            self._serving.set_result(report)
        elif isinstance(report, Idle) and not self._idle.done():
            self._idle.set_result(report.drained)
        elif isinstance(report, Dead) and not self._dead.done():
            self._dead.set_result(report.cause)

    def _ended(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)
        if not self._dead.done():
            self._dead.set_result(self._cause(status))

    def _cause(self, status: int) -> str:
        if self._stopping:
            return "it was told to stop"
        if status < 0:
            return f"its process was killed by {signal.Signals(-status).name}"
        return cause_of(tuple(self._tail)) or f"its process exited with status {status}"


def _kill_group(leader_pid: int) -> None:
    """Kills a group whose leader has not been reaped yet, so that its number is still its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, signal.SIGKILL)
