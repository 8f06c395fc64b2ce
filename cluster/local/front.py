"""The ways into a local cluster and out of it: in the foreground, detached, and the end.

Each returns only when what it promises is true: `run_in_foreground` when no process is left,
`start_detached` when the cluster is ready, `end_cluster` when every process has ended.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from cluster.local.layout import ClusterFiles, write_private
from cluster.local.plan import choose_ports, with_admin_key
from cluster.local.progress import Progress
from cluster.local.record import (
    ClusterRecord,
    ClusterState,
    Failure,
    is_running,
    read_record,
    runs_already,
)
from cluster.local.services import child_environment
from cluster.local.warden import end_processes, run_warded
from rhizome.clock import Clock, SystemClock
from rhizome.errors import ClusterError, StartError
from rhizome.settings.dump import settings_yaml
from rhizome.settings.tree import Settings

_POLL_S = 0.1
_END_TIMEOUT_S = 90.0

Explain = Callable[[StartError], int]
"""Shows an error to people and returns the exit status for it."""


def run_in_foreground(
    settings: Settings, make_progress: Callable[[], Progress], explain: Explain
) -> int:
    """Runs the cluster until Ctrl-C, SIGTERM or its failure; returns the exit status.

    Raises `ClusterError` when it runs already and `PortInUse`.
    """
    files, settings = _prepare(settings)

    def supervise_here() -> int:
        from cluster.local.supervisor import supervise

        try:
            asyncio.run(supervise(settings, files, make_progress(), SystemClock()))
        except StartError as error:
            return explain(error)
        return 0

    return run_warded(supervise_here)


def start_detached(settings: Settings, say: Callable[[str], None]) -> ClusterRecord:
    """Starts the cluster in a session of its own; returns its record when it is ready.

    `say` gets its lines as they come. Raises the `StartError` that ended it. A Ctrl-C before it is
    ready ends it.
    """
    files, settings = _prepare(settings)
    files.record.unlink(missing_ok=True)
    text = settings_yaml(settings, reveal_secrets=True, defaults=False)
    write_private(files.asked, text)
    log = files.log("up")
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "cluster.local.detached", str(files.asked)],
            env=child_environment(files),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return asyncio.run(_wait_ready(process, files, log, say, SystemClock()))
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


async def end_cluster(files: ClusterFiles, clock: Clock) -> bool:
    """Ends the cluster and waits for all of its processes; False when it does not run.

    What a killed supervisor left behind is ended too. Raises `ClusterError` when processes refuse
    to end.
    """
    record = read_record(files)
    if record is None:
        return False
    running = is_running(files)
    warden = record.warden.process() if record.warden is not None else None
    if running and warden is not None:
        family = await _ask_to_end(warden, files, clock)
    else:
        found = (pid.process() for pid in record.processes.values())
        family = [process for process in found if process is not None]
        family += [below for process in family for below in _below(process)]
    left = await asyncio.to_thread(end_processes, [one for one in family if one.is_running()])
    if left:
        raise ClusterError(f"these processes would not end: {[one.pid for one in left]}")
    return running or bool(family)


async def _ask_to_end(
    warden: psutil.Process, files: ClusterFiles, clock: Clock
) -> list[psutil.Process]:
    """SIGTERM to the outermost process; returns its family once that has ended, or too late."""
    family = {warden, *_below(warden)}
    warden.terminate()
    deadline_s = clock.monotonic_s() + _END_TIMEOUT_S
    while clock.monotonic_s() < deadline_s:
        await clock.sleep(_POLL_S)
        if not _lives(warden) and not is_running(files):
            break
        family.update(_below(warden))
    return [process for process in family if _lives(process)]


async def _wait_ready(
    process: subprocess.Popen[bytes],
    files: ClusterFiles,
    log: Path,
    say: Callable[[str], None],
    clock: Clock,
) -> ClusterRecord:
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            ended = process.poll() is not None
            record = read_record(files)
            for line in lines:
                say(line.rstrip("\n"))
            if record is not None and record.state is ClusterState.READY:
                return record
            if ended:
                failure = record.failure if record is not None else None
                raise _as_error(failure, process.returncode, log)
            await clock.sleep(_POLL_S)


def _as_error(failure: Failure | None, exit_code: int, log: Path) -> StartError:
    """The error that the detached supervisor ended with, in this process."""
    if failure is None:
        return ClusterError(
            f"the supervisor ended with exit code {exit_code} before the cluster was ready",
            advice=f"Its log is {log}.",
        )
    for kind in StartError.__subclasses__():
        if kind.exit_code == failure.exit_code:
            return kind(failure.message, advice=failure.advice)
    return StartError(failure.message, advice=failure.advice)


def _prepare(settings: Settings) -> tuple[ClusterFiles, Settings]:
    files = ClusterFiles.of(settings.state_directory, settings.name)
    try:
        files.make()
    except OSError as error:
        raise ClusterError(
            f"cannot write to {files.root}: {error}",
            advice="Set `state_directory` to a place that you may write to.",
        ) from error
    if is_running(files):
        raise runs_already(files)
    return files, with_admin_key(choose_ports(settings), files)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
