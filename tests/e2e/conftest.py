"""Whole clusters for end-to-end tests: started as a user starts them, ended without a trace.

`cluster` is shared by all tests, so a test that changes it (kills a worker) waits until it is whole
again. `scaling_cluster` is one of its own with an eager autoscaler.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.local.layout import ClusterFiles
from cluster.local.plan import DEMO_MODELS
from cluster.local.ports import free_port
from rhizome.settings.load import load_settings
from tests.e2e.fleet import RunningCluster, run_rhizome

START_TIMEOUT_S = 600.0
END_TIMEOUT_S = 120.0


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """The demonstration cluster, with two Llama workers that the autoscaler leaves in place."""
    settings = {
        "models": [demo_model(0, min_workers=2), demo_model(1)],
        # Prompts are known exactly, however busy the machine is.
        "router": {"rendering": {"stall_s": 2.0}},
    }
    with running_cluster("e2e", settings, tmp_path_factory.mktemp("e2e")) as running:
        yield running


@pytest.fixture(scope="module")
def scaling_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """One Llama worker that may become two, little room, and an autoscaler that acts in seconds."""
    settings = {
        "models": [demo_model(0, workers=1, min_workers=1, max_workers=2)],
        "router": {"admission": {"in_flight_max_per_worker": 4}},
        "controller": {"scaling": {"up_after_s": 1.0, "down_after_s": 5.0}},
    }
    with running_cluster("e2e-scaling", settings, tmp_path_factory.mktemp("scaling")) as running:
        yield running


@contextmanager
def running_cluster(
    purpose: str, settings: dict[str, Any], directory: Path
) -> Iterator[RunningCluster]:
    """A cluster with those settings; leaving the block ends it and looks for what is left."""
    name = f"{purpose}-{os.getpid()}"
    config = directory / "settings.yaml"
    config.write_text(yaml.safe_dump(settings))
    port = str(free_port("127.0.0.1", frozenset()))
    arguments = ("--detach", "--name", name, "--port", port, "--config", str(config))
    run_rhizome("up", *arguments, timeout_s=START_TIMEOUT_S)
    running = RunningCluster(name, ClusterFiles.of(load_settings().state_directory, name))
    print(f"\ncluster {name} at {running.url}: {json.dumps(running.record.phases_s)}")
    family = set(running.processes())
    try:
        yield running
    finally:
        family |= set(running.processes())
        run_rhizome("down", "--name", name, timeout_s=END_TIMEOUT_S)
    left = [one for one in family if _lives(one)]
    assert not left, f"these processes outlived `rhizome down`: {left}"
    shutil.rmtree(running.files.root)


def demo_model(
    index: int,
    *,
    workers: int | None = None,
    min_workers: int | None = None,
    max_workers: int | None = None,
) -> dict[str, Any]:
    """A demonstration model with other numbers of workers."""
    model = DEMO_MODELS[index].model_dump(mode="json")
    model["workers"] = model["workers"] if workers is None else workers
    if model["scaling"] is not None:
        bounds = {"min_workers": min_workers, "max_workers": max_workers}
        model["scaling"] |= {key: value for key, value in bounds.items() if value is not None}
    return model


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
