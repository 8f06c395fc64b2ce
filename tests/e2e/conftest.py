"""One whole cluster for all end-to-end tests: started as a user starts it, ended without a trace.

`cluster` is the running cluster; it is up before the first test and is shared, so a test that
changes it (kills a worker, scales a model) puts it back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest
import yaml

from cluster.local.layout import ClusterFiles
from cluster.local.plan import DEMO_MODELS
from cluster.local.ports import free_port
from cluster.local.record import ClusterRecord, read_record
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings

START_TIMEOUT_S = 600.0
END_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class RunningCluster:
    """The cluster under test."""

    name: str
    files: ClusterFiles
    record: ClusterRecord

    @property
    def url(self) -> str:
        """The router's, no trailing slash."""
        return self.record.url

    @property
    def settings(self) -> Settings:
        """What its processes read; holds the secrets of its store."""
        return load_settings(self.files.settings, environment={})

    def rhizome(self, *arguments: str) -> str:
        """Output of a `rhizome` command; fails the test when it fails."""
        return run_rhizome(*arguments, "--name", self.name)

    def processes(self) -> list[psutil.Process]:
        """Every living process of it, the outermost first."""
        assert self.record.warden is not None
        warden = self.record.warden.process()
        return [] if warden is None else [warden, *warden.children(recursive=True)]


def run_rhizome(*arguments: str, timeout_s: float = 60.0) -> str:
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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """The demonstration cluster, with two Llama workers that the autoscaler leaves in place."""
    name = f"e2e-{os.getpid()}"
    config = tmp_path_factory.mktemp("e2e") / "settings.yaml"
    config.write_text(yaml.safe_dump({"models": [_kept(index) for index in range(2)]}))
    port = str(free_port("127.0.0.1", frozenset()))
    arguments = ("--detach", "--name", name, "--port", port, "--config", str(config))
    run_rhizome("up", *arguments, timeout_s=START_TIMEOUT_S)
    settings = load_settings(flags={"name": name})
    files = ClusterFiles.of(settings.state_directory, name)
    record = read_record(files)
    assert record is not None
    running = RunningCluster(name, files, record)
    print(f"\ncluster {name} at {record.url}: {json.dumps(record.phases_s)}")
    family = running.processes()
    try:
        yield running
    finally:
        family += [one for one in running.processes() if one not in family]
        run_rhizome("down", "--name", name, timeout_s=END_TIMEOUT_S)
        shutil.rmtree(files.root)
    left = [one for one in family if _lives(one)]
    assert not left, f"these processes outlived `rhizome down`: {left}"


def _kept(index: int) -> dict[str, object]:
    """A demonstration model whose number of workers never falls below what it starts with."""
    model = DEMO_MODELS[index].model_dump(mode="json")
    if model["scaling"] is not None:
        model["scaling"]["min_workers"] = model["workers"]
    return model


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
