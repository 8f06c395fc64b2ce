"""`rhizome calibrate` on a real vLLM. A start takes about 20 s."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rhizome.settings.load import environment_copy
from workers.engine.simulated.profile import load_profile

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

RHIZOME = (sys.executable, "-c", "from rhizome.cli.main import main; main()")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A worker of a tiny model, its key in `tmp_path`; 128 sequences are vLLM's own limit."""
    process = subprocess.Popen(
        [
            *(*RHIZOME, "worker", "--model", "demo:mixtral", "--kv-cache-memory", "50M"),
            *("--block-size", "32", "--max-model-len", "4096"),
            *("--engine-arg", "max-num-batched-tokens=1024", "--key-file", str(tmp_path / "key")),
        ],
        env=environment_copy() | {"RHIZOME_STATE_DIRECTORY": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r" at (\S+)$", line) for line in process.stdout)))
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_the_limits_of_a_real_engine_are_found_and_its_steps_cost_something(
    url: str, tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    subprocess.run(
        [
            *(*RHIZOME, "calibrate", url, "--key-file", str(tmp_path / "key"), "-o", str(file)),
            *("--rounds", "4", "--sequences-max", "8", "--gpus", "0"),
        ],
        check=True,
        timeout=200,
    )
    profile = load_profile(file)
    assert profile.block_size == 32
    assert profile.kv_blocks > 100
    assert profile.max_model_len == 4096
    assert profile.max_num_seqs == 128
    limits = profile.calibration["limits"]
    assert isinstance(limits, dict)
    if limits["max_num_batched_tokens"] == "measured":  # a busy machine may hide it
        assert profile.max_num_batched_tokens == 1024
    assert profile.a_ms > 0.2
    assert profile.d_ms_per_ktok > 1.0
    assert not profile.async_scheduling
