"""Who hears of turns that come, and of workers that come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rhizome.errors import RequestError
from rhizome.fleet.records import WorkerRecord
from router.placement import Assignment
from router.prefix.index import PrefixIndex


class Waiting:
    """A `router.turns.Pending`: tells the simulation when a request's turn has come."""

    def __init__(
        self, placed: Callable[[Assignment], None], refused: Callable[[RequestError], None]
    ) -> None:
        self._placed = placed
        self._refused = refused
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Assignment, /) -> None:
        self._done = True
        self._placed(result)

    def set_exception(self, exception: RequestError, /) -> None:
        self._done = True
        self._refused(exception)


@dataclass(slots=True)
class IndexMembers:
    """A fleet listener: the index takes blocks of workers that are there."""

    index: PrefixIndex

    def joined(self, record: WorkerRecord) -> None:
        self.index.add_worker(record.worker_id, record.kv_blocks)

    def left(self, record: WorkerRecord) -> None:
        self.index.remove_worker(record.worker_id)
