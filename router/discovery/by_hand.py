"""What operators did to workers by hand, kept in a file so that a router that restarts knows it.

Processes of one router are given the same orders and write the same, so the last one may win.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from rhizome.errors import SettingsError
from rhizome.ids import new_id
from router.discovery.static_worker import StaticWorker

_log = logging.getLogger(__name__)


class _Content(msgspec.Struct):
    workers: list[StaticWorker] = []
    drained: list[str] = []


class HandBook:
    """Workers added beside those of the settings, and drains of workers given by hand.

    Every change is written at once; holds workers' keys, so only its owner may read the file.
    """

    def __init__(self, file: Path | None) -> None:
        """Reads the file, if it is there; without one nothing is kept. Raises `SettingsError`."""
        self._file = None if file is None else file.expanduser()
        content = self._read()
        self._workers = {worker.worker_id: worker for worker in content.workers}
        self._drained = set(content.drained)
        self.is_kept = self._file is not None
        """Whether all of this survives the router; false, too, when the file cannot be written."""

    @property
    def workers(self) -> tuple[StaticWorker, ...]:
        return tuple(self._workers.values())

    @property
    def drained(self) -> frozenset[str]:
        return frozenset(self._drained)

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._workers

    def add(self, worker: StaticWorker) -> None:
        self._workers[worker.worker_id] = worker
        self._write()

    def remove(self, worker_id: str) -> None:
        """Forgets the worker and its drain; does nothing for one that is not here."""
        self._workers.pop(worker_id, None)
        self._drained.discard(worker_id)
        self._write()

    def drain(self, worker_id: str) -> None:
        self._drained.add(worker_id)
        self._write()

    def resume(self, worker_id: str) -> None:
        self._drained.discard(worker_id)
        self._write()

    def _read(self) -> _Content:
        if self._file is None:
            return _Content()
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=_Content)
        except FileNotFoundError:
            return _Content()
        except (OSError, msgspec.MsgspecError) as error:
            raise SettingsError(
                f"cannot read the workers given by hand in {self._file}: {error}",
                advice="Remove the file, or set router.admin.workers_file to another one.",
            ) from error

    def _write(self) -> None:
        if self._file is None:
            return
        content = _Content(list(self._workers.values()), sorted(self._drained))
        fresh = self._file.with_name(f"{self._file.name}.{new_id('new')}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
                out.write(msgspec.json.encode(content))
            fresh.replace(self._file)
        except OSError as error:
            _log.warning("what was done by hand is lost when this router ends: %s", error)
            with suppress(OSError):
                fresh.unlink()
            self.is_kept = False
        else:
            self.is_kept = True
