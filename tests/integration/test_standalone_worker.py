"""`rhizome worker` as a user starts it, and vLLM's own parser. A start takes about 20 s."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from rhizome.fleet.models import ModelSpec
from rhizome.settings.load import environment_copy
from tests.support.processes import family, living
from workers.engine.arguments import engine_arguments

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def test_vllms_own_parser_takes_every_kind_of_argument() -> None:
    everything = ModelSpec.model_validate(
        {
            "name": "m",
            "source": "m",
            "parallel": {"tensor": 2, "pipeline": 2, "data": 2, "expert": True},
            "kv_cache_memory": "100M",
            "max_model_len": 2048,
            "block_size": 32,
            "max_num_seqs": 4,
            "revision": "main",
            "engine_args": {
                "enable_lora": True,
                "no-enable-chunked-prefill": True,
                "scheduling-policy": "priority",
                "limit-mm-per-prompt": {"image": 1},
            },
        }
    )
    arguments = engine_arguments(everything, "m", {"enable_kv_cache_events": True})
    code = (
        "import json, sys; from workers.engine.vllm import parse_arguments; "
        "found = vars(parse_arguments(json.loads(sys.argv[1]))); "
        "print('FOUND', json.dumps({name: str(value) for name, value in found.items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.partition("FOUND ")[2])
    assert found["tensor_parallel_size"] == found["data_parallel_size"] == "2"
    assert found["kv_cache_memory_bytes"] == str(100 * 2**20)
    assert found["enable_chunked_prefill"] == "False"
    assert found["enable_prefix_caching"] == found["enable_expert_parallel"] == "True"


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker of a tiny model, with its state in `tmp_path`."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from rhizome.cli.main import main; main()", "worker"),
            *("--model", "demo:mixtral", "--kv-cache-memory", "50M", "--worker-id", "w-test"),
        ],
        env=environment_copy() | {"RHIZOME_STATE_DIRECTORY": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_alone_says_how_to_reach_it_and_leaves_nothing(
    standalone: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    assert standalone.stdout is not None
    said = []
    for line in standalone.stdout:
        said.append(line)
        if line.startswith("route to it: rhizome router --worker 'http://127.0.0.1:"):
            break
    key_file = tmp_path / "keys" / "w-test"
    assert key_file.stat().st_mode & 0o777 == 0o600
    key = key_file.read_text().strip()
    assert key not in "".join(said)
    url = re.search(r"http://127\.0\.0\.1:\d+", said[0])
    assert url is not None
    headers = {"authorization": f"Bearer {key}"}
    models = httpx.get(f"{url.group()}/v1/models", headers=headers).json()
    assert [model["id"] for model in models["data"]] == ["demo-mixtral"]
    processes = family(standalone.pid)
    standalone.send_signal(number)
    assert standalone.wait(30) == (0 if number is signal.SIGTERM else -number)
    deadline = psutil.wait_procs(processes[1:], timeout=10)
    assert living(deadline[1]) == []
