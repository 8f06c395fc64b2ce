"""What a local cluster says of itself in `cluster.json`: for `down`, `--detach` and people.

The supervisor alone writes it. Whether a cluster runs is told by its lock, not by this file: a
supervisor that was killed leaves the file behind.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import msgspec
import psutil

from cluster.local.layout import ClusterFiles, write_private
from rhizome.errors import ClusterError


class ClusterState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"


class Pid(msgspec.Struct, frozen=True):
    """A process, told apart from a later one with the same number by its start."""

    pid: int
    started_wall_s: float

    def process(self) -> psutil.Process | None:
        """The process while it lives (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_wall_s) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def pid_of(number: int) -> Pid | None:
    """The living process of that number, or None."""
    try:
        return Pid(number, psutil.Process(number).create_time())
    except psutil.NoSuchProcess:
        return None


class Failure(msgspec.Struct, frozen=True):
    """Why the cluster ended by itself."""

    message: str
    advice: str
    exit_code: int


class ClusterRecord(msgspec.Struct, kw_only=True):
    """One start of one cluster."""

    name: str
    state: ClusterState = ClusterState.STARTING
    url: str = ""
    metrics_url: str = ""
    started_wall_s: float = 0.0
    ports: dict[str, int] = msgspec.field(default_factory=dict)
    warden: Pid | None = None
    """The outermost process: the one to send SIGTERM to."""
    processes: dict[str, Pid] = msgspec.field(default_factory=dict)
    phases_s: dict[str, float] = msgspec.field(default_factory=dict)
    """Seconds that each phase of the start took."""
    failure: Failure | None = None


def write_record(files: ClusterFiles, record: ClusterRecord) -> None:
    encoded = msgspec.json.format(msgspec.json.encode(record), indent=2)
    write_private(files.record, encoded.decode() + "\n")


def read_record(files: ClusterFiles) -> ClusterRecord | None:
    """The last record, None where there is none that can be read."""
    try:
        return msgspec.json.decode(files.record.read_bytes(), type=ClusterRecord)
    except (OSError, msgspec.MsgspecError):
        return None


@contextmanager
def cluster_lock(files: ClusterFiles) -> Iterator[None]:
    """Holds the cluster's name; raises `ClusterError` when another supervisor has it."""
    descriptor = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise runs_already(files) from error
        yield
    finally:
        os.close(descriptor)


def is_running(files: ClusterFiles) -> bool:
    """Whether a supervisor holds the cluster's lock."""
    try:
        descriptor = os.open(files.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def runs_already(files: ClusterFiles) -> ClusterError:
    record = read_record(files)
    where = f" at {record.url}" if record is not None and record.url else ""
    name = files.root.name
    return ClusterError(
        f"the cluster {name!r} runs already{where}",
        advice=f"End it with `rhizome down --name {name}`, or start another one beside it with "
        "`--name` and `--port`.",
    )
