"""What `rhizome up` refuses, with which exit status, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.local.layout import ClusterFiles
from cluster.local.ports import free_port
from cluster.local.record import ClusterRecord, cluster_lock, write_record

pytestmark = pytest.mark.integration


@dataclass
class Refusal:
    """How a command ended."""

    exit_code: int
    error: str


class CommandLine:
    """The `rhizome` command with a state directory of the test's own."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: str) -> Refusal:
        ended = subprocess.run(
            [sys.executable, "-m", "rhizome.cli.main", *arguments],
            env={**os.environ, "RHIZOME_STATE_DIRECTORY": str(self.state)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in ended.stderr
        return Refusal(ended.returncode, ended.stderr)

    def up(self, *arguments: str) -> Refusal:
        port = free_port("127.0.0.1", frozenset())
        return self("up", "--port", str(port), *arguments)


@pytest.fixture
def rhizome(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


def test_a_port_in_use_is_named(rhizome: CommandLine) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = str(listener.getsockname()[1])
        refusal = rhizome("up", "--port", port)
    assert refusal.exit_code == 3
    assert port in refusal.error
    assert "--port" in refusal.error


@pytest.mark.parametrize("detach", [(), ("--detach",)])
def test_a_missing_model_directory_is_named(
    rhizome: CommandLine, tmp_path: Path, detach: tuple[str, ...]
) -> None:
    missing = str(tmp_path / "nowhere")
    refusal = rhizome.up("--model", missing, *detach)
    assert refusal.exit_code == 4
    assert missing in refusal.error


def test_a_corrupt_model_file_is_named(rhizome: CommandLine, tmp_path: Path) -> None:
    model = tmp_path / "broken"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"\xff" * 64)
    refusal = rhizome.up("--model", str(model))
    assert refusal.exit_code == 4
    assert "model.safetensors" in refusal.error


def test_more_workers_than_memory_are_refused_before_anything_starts(
    rhizome: CommandLine,
) -> None:
    refusal = rhizome.up("--model", "demo:mixtral", "--workers", "9999", "--name", "big")
    assert refusal.exit_code == 5
    assert "9999 x mixtral-demo" in refusal.error
    record = json.loads(ClusterFiles.of(rhizome.state, "big").record.read_text())
    assert set(record["processes"]) == {"supervisor"}


def test_a_redis_that_does_not_answer_is_refused(rhizome: CommandLine) -> None:
    port = free_port("127.0.0.1", frozenset())
    url = f"redis://:verysecret@127.0.0.1:{port}/0"
    refusal = rhizome.up("--model", "demo:mixtral", "--redis-url", url)
    assert refusal.exit_code == 6
    assert "verysecret" not in refusal.error


def test_an_unknown_setting_is_named_with_the_nearest_one(
    rhizome: CommandLine, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("router: {prot: 1}")
    refusal = rhizome("up", "--config", str(file))
    assert refusal.exit_code == 2
    assert "router.prot" in refusal.error
    assert "'port'" in refusal.error


def test_a_second_start_says_that_the_cluster_runs(rhizome: CommandLine) -> None:
    files = ClusterFiles.of(rhizome.state, "twice")
    files.make()
    write_record(files, ClusterRecord(name="twice", url="http://127.0.0.1:8000"))
    with cluster_lock(files):
        refusal = rhizome.up("--name", "twice")
    assert refusal.exit_code == 9
    assert "runs already at http://127.0.0.1:8000" in refusal.error


def test_ending_what_does_not_run_is_no_error(rhizome: CommandLine) -> None:
    assert rhizome("down", "--name", "nobody") == Refusal(0, "")


def test_a_state_directory_that_cannot_be_written_is_named(
    rhizome: CommandLine, tmp_path: Path
) -> None:
    rhizome.state = tmp_path / "file"
    rhizome.state.write_text("")
    refusal = rhizome.up()
    assert refusal.exit_code == 9
    assert str(rhizome.state) in refusal.error
