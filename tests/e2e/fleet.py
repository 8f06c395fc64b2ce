"""What end-to-end tests ask of a running local cluster beside its API."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI

from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.load import load_settings
from rhizome.stores.open import open_stores


@dataclass(frozen=True)
class RunningCluster:
    """A cluster started by `rhizome up --detach`."""

    name: str
    directory: Path
    """`clusters/<name>` in its state directory."""

    @property
    def facts(self) -> dict[str, Any]:
        """What `rhizome up` noted: url, metrics_url, processes, phases."""
        return dict(json.loads((self.directory / "cluster.json").read_text()))

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    @property
    def openai(self) -> OpenAI:
        """OpenAI's own client, without its retries, so that failures are seen."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def pid_of(self, process: str) -> int:
        return int(self.facts["processes"][process]["pid"])

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the router's samples of that name with these labels."""
        page = httpx.get(f"{self.facts['metrics_url']}", timeout=10).text
        return sum_of_samples(page, name, labels)

    def workers(self) -> list[WorkerRecord]:
        """The registry's entries, straight from the store."""

        async def read() -> list[WorkerRecord]:
            settings = load_settings(self.directory / "settings.yaml", environment={})
            stores = await open_stores(settings.redis)
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

    def rhizome(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs the CLI."""
        state = self.directory.parent.parent
        return subprocess.run(
            [sys.executable, "-m", "rhizome.cli.main", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "RHIZOME_STATE_DIRECTORY": str(state)},
        )


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
