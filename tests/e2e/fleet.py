"""What end-to-end tests ask of a running local cluster beside its API."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import psutil
from openai import OpenAI

from cluster.local.layout import ClusterFiles
from cluster.local.record import ClusterRecord, read_record
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings
from rhizome.stores.open import open_stores


@dataclass(frozen=True)
class RunningCluster:
    """A cluster started by `rhizome up --detach`."""

    name: str
    files: ClusterFiles

    @property
    def record(self) -> ClusterRecord:
        """What `rhizome up` noted, as it is now."""
        record = read_record(self.files)
        assert record is not None
        return record

    @property
    def url(self) -> str:
        """The router's, no trailing slash."""
        return self.record.url

    @property
    def settings(self) -> Settings:
        """What its processes read; holds the secrets of its store."""
        return load_settings(self.files.settings, environment={})

    def processes(self) -> list[psutil.Process]:
        """Every living process of it, the outermost first."""
        assert self.record.warden is not None
        warden = self.record.warden.process()
        return [] if warden is None else [warden, *warden.children(recursive=True)]

    @property
    def openai(self) -> OpenAI:
        """OpenAI's own client, without its retries, so that failures are seen."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def pid_of(self, process: str) -> int:
        return self.record.processes[process].pid

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the router's samples of that name with these labels."""
        page = httpx.get(self.record.metrics_url, timeout=10).text
        return sum_of_samples(page, name, labels)

    def workers(self) -> list[WorkerRecord]:
        """The registry's entries, straight from the store."""

        async def read() -> list[WorkerRecord]:
            stores = await open_stores(self.settings.redis)
            try:
                return list(await stores.registry.workers())
            finally:
                await stores.close()

        return asyncio.run(read())

    def ready(self, model: str) -> list[WorkerRecord]:
        return [
            worker
            for worker in self.workers()
            if worker.model == model and worker.state is WorkerState.READY
        ]

    def worker(self, worker_id: str) -> WorkerRecord | None:
        return next((one for one in self.workers() if one.worker_id == worker_id), None)

    def rhizome(self, *arguments: str) -> str:
        """Output of a `rhizome` command on this cluster; fails the test when it fails."""
        return run_rhizome(*arguments, "--name", self.name)


def run_rhizome(*arguments: str, timeout_s: float = 60.0) -> str:
    """Output of a `rhizome` command; fails the test when it fails."""
    ended = subprocess.run(
        [sys.executable, "-m", "rhizome.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    said = f"{ended.stdout}\n{ended.stderr}"
    assert ended.returncode == 0, f"rhizome {' '.join(arguments)} exited {ended.returncode}: {said}"
    return ended.stdout


def engine_metric(worker: WorkerRecord, name: str) -> float:
    """A sample of the engine's own metrics page."""
    headers = {"authorization": f"Bearer {worker.api_key}"}
    page = httpx.get(f"{worker.url}/metrics", headers=headers, timeout=10).text
    return sum_of_samples(page, name, {})


def sum_of_samples(page: str, name: str, labels: dict[str, str]) -> float:
    """Sums the samples of a metrics page; 0 if there are none."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.split("{")[0].split(" ")[0] == name and all(one in line for one in wanted)
    )


def wait_until(claim: Callable[[], bool], within_s: float) -> None:
    """Returns once the claim holds; looks ten times a second."""
    deadline_s = time.monotonic() + within_s
    while not claim():
        assert time.monotonic() < deadline_s, f"did not come true within {within_s} s"
        time.sleep(0.1)
