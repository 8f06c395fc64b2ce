"""Tells when the router answers and when the workers asked for serve, or why they never will."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from cluster.report import ControllerReport, ReportBoard
from rhizome.clock import Clock
from rhizome.errors import ClusterError, EngineFailed, StoreUnavailable
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.tree import RouterSettings
from rhizome.stores.open import Stores

_POLL_S = 0.1
_REPORT_POLL_S = 0.5
_DEATHS_MAX = 3
_HTTP_TIMEOUT_S = 2.0


class Watch(Protocol):
    """Called between two looks; raises when the cluster cannot become ready any more."""

    def __call__(self) -> None: ...


@dataclass(frozen=True)
class Loading:
    """How far the workers are."""

    ready: int
    wanted: int
    text: str
    """One line for people, e.g. `llama-demo 1/2 (loading)`."""


def router_url(settings: RouterSettings) -> str:
    """Where this machine reaches the router, no trailing slash."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - told apart, not bound
    host = everywhere.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


async def wait_router(
    settings: RouterSettings, path: str, timeout_s: float, clock: Clock, watch: Watch
) -> None:
    """Returns when the router answers 200 on `path`; raises `ClusterError` after `timeout_s`."""
    url = router_url(settings) + path
    deadline_s = clock.monotonic_s() + timeout_s
    while not await asyncio.to_thread(_answers, url):
        watch()
        if clock.monotonic_s() >= deadline_s:
            raise ClusterError(
                f"the router did not answer {path} within {timeout_s:.0f} s",
                advice="See its log in the cluster's `logs` directory.",
            )
        await clock.sleep(_POLL_S)


@dataclass
class FleetWait:
    """Waits for the workers of all models."""

    stores: Stores
    models: Sequence[ModelSpec]
    since_wall_s: float
    """Records and reports from before belong to an earlier start."""
    clock: Clock
    watch: Watch

    async def run(self, timeout_s: float, tell: Callable[[str], None]) -> None:
        """Returns when every model has as many ready workers as its spec says.

        Raises `EngineFailed` when a model's workers keep dying or `timeout_s` is over.
        """
        deadline_s = self.clock.monotonic_s() + timeout_s
        board = ReportBoard(self.stores.documents)
        report: ControllerReport | None = None
        report_due_s = 0.0
        while True:
            self.watch()
            now_s = self.clock.monotonic_s()
            try:
                records = await self.stores.registry.workers()
                if now_s >= report_due_s:
                    report, report_due_s = await board.read(), now_s + _REPORT_POLL_S
            except StoreUnavailable as error:
                tell(f"the store does not answer: {error.message}")
                records = ()
            if report is not None and report.at_wall_s < self.since_wall_s:
                report = None
            fresh = [one for one in records if one.started_wall_s >= self.since_wall_s]
            loading = how_far(self.models, fresh, report)
            tell(loading.text)
            if loading.ready >= loading.wanted:
                return
            raise_if_hopeless(fresh, report)
            if now_s >= deadline_s:
                raise EngineFailed(
                    f"the workers did not become ready within {timeout_s:.0f} s: {loading.text}",
                    advice="Raise `worker.start_timeout_s`, or see Ray's logs for what they do.",
                )
            await self.clock.sleep(_POLL_S)


def how_far(
    models: Sequence[ModelSpec],
    records: Iterable[WorkerRecord],
    report: ControllerReport | None,
) -> Loading:
    """Ready workers against those wanted, and what the others are at."""
    by_model: dict[str, list[WorkerRecord]] = {spec.name: [] for spec in models}
    for record in records:
        by_model.setdefault(record.model, []).append(record)
    parts, ready = [], 0
    for spec in models:
        own = by_model[spec.name]
        count = sum(record.state is WorkerState.READY for record in own)
        ready += min(count, spec.workers)
        parts.append(f"{spec.name} {count}/{spec.workers}{_detail(spec, own, count, report)}")
    return Loading(ready, sum(spec.workers for spec in models), ", ".join(parts))


def raise_if_hopeless(records: Iterable[WorkerRecord], report: ControllerReport | None) -> None:
    """Raises `EngineFailed` when some worker keeps dying."""
    if report is None:
        return
    details = {record.worker_id: record.detail for record in records}
    for worker_id, worker in report.workers.items():
        if worker.deaths >= _DEATHS_MAX:
            cause = worker.cause or details.get(worker_id) or "no cause was told"
            raise EngineFailed(
                f"worker {worker_id} of {worker.model} died {worker.deaths} times: {cause}",
                advice="The engine's own messages are in Ray's logs.",
            )


def _detail(
    spec: ModelSpec, records: Sequence[WorkerRecord], ready: int, report: ControllerReport | None
) -> str:
    if ready >= spec.workers:
        return ""
    details = sorted(
        {record.detail or record.state.value for record in records if not _serves(record)}
    )
    models: Mapping[str, str] = (
        {} if report is None else {name: row.trouble for name, row in report.models.items()}
    )
    if models.get(spec.name):
        details.append(models[spec.name])
    return f" ({'; '.join(details) or 'starting'})"


def _serves(record: WorkerRecord) -> bool:
    return record.state is WorkerState.READY


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port, timeout=_HTTP_TIMEOUT_S
    )
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
