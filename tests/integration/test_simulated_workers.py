"""`rhizome simulated-workers` as a process: many workers, reached by whoever is told of them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from rhizome.settings.load import environment_copy
from tests.support.engine_contract.engines import write_tokenizer

pytestmark = pytest.mark.integration


def test_each_worker_answers_on_its_own_port_until_the_process_is_told_to_end(
    tmp_path: Path,
) -> None:
    model = write_tokenizer(tmp_path / "model")
    command = [sys.executable, "-m", "rhizome.cli.main", "simulated-workers"]
    command += [
        "--model",
        str(model),
        "--name",
        "m",
        "--count",
        "3",
        "--no-key",
        "--enable-scale-out",
    ]
    environment = environment_copy() | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(4)]
            urls = [
                found[1] for line in lines if (found := re.search(r"(http://\S+) events", line))
            ]
            assert len(set(urls)) == 3
            assert lines[3].count("--worker ") == 3
            with httpx.Client(timeout=20) as http:
                body = {"model": "m", "prompt": "hello", "max_tokens": 3, "ignore_eos": True}
                texts = {
                    http.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"]
                    for url in urls
                }
                rendered = {
                    tuple(
                        http.post(f"{url}/v1/completions/render", json=body).json()[0]["token_ids"]
                    )
                    for url in urls
                }
            assert len(texts) == 1, "the same words from the same seed"
            assert len(rendered) == 1
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_workers_without_a_key_stay_on_loopback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rhizome.cli.main", "simulated-workers"]
    ended = subprocess.run(
        [*command, "--no-key", "--host", "0.0.0.0"],  # noqa: S104 - it is refused
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=environment_copy() | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ended.returncode == 2
    assert "loopback" in ended.stderr
