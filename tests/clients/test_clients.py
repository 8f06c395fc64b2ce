"""`vllm bench serve`, aiperf and guidellm replay a trace and agree with our own client."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from loadtest.workloads.requests import Api
from tests.clients.rig import (
    MODEL,
    REQUESTS,
    Reading,
    assert_agrees,
    client_program,
    open_rig,
    own_reading,
    run_client,
    write_trace,
)

pytestmark = [pytest.mark.clients, pytest.mark.timeout(420)]

# The console script asks for the metadata of a package `vllm`, which the CPU build has under
# another name; this is what its `bench serve` runs after that.
VLLM_BENCH_SERVE = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


async def test_vllm_bench_serve_replays_a_timed_trace(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.jsonl", units_per_s=1000.0)
    async with open_rig(tmp_path) as rig:
        command = [sys.executable, "-c", VLLM_BENCH_SERVE, "--backend", "openai"]
        command += ["--base-url", rig.url, "--endpoint", "/v1/completions", "--model", MODEL]
        command += ["--tokenizer", str(rig.model_directory), "--dataset-name", "timed_trace"]
        command += ["--dataset-path", str(trace), "--timed-trace-chunk-hash-size", "512"]
        command += ["--timed-trace-sec-multiplier", "0.001", "--num-prompts", str(REQUESTS)]
        command += ["--ignore-eos", "--disable-tqdm", "--save-result"]
        command += ["--result-filename", "found.json"]
        await run_client(command, tmp_path)
        assert await rig.answered() >= REQUESTS
    found = json.loads((tmp_path / "found.json").read_bytes())
    theirs = Reading(
        completed=found["completed"],
        failed=found["failed"],
        ttft_ms_p50=found["median_ttft_ms"],
        ttft_ms_mean=found["mean_ttft_ms"],
    )
    assert_agrees(theirs, await own_reading(tmp_path, trace, Api.IDS))


async def test_aiperf_replays_a_mooncake_trace_on_its_schedule(tmp_path: Path) -> None:
    program = client_program("aiperf")
    trace = write_trace(tmp_path / "trace.jsonl", units_per_s=1000.0)
    async with open_rig(tmp_path) as rig:
        hub = _hub_with(rig.model_directory, tmp_path / "hub")
        command = [program, "profile", "--model", MODEL, "--url", rig.url]
        command += ["--endpoint-type", "chat", "--streaming", "--tokenizer", "demo/llama"]
        command += ["--input-file", str(trace), "--custom-dataset-type", "mooncake_trace"]
        command += ["--fixed-schedule", "--extra-inputs", "ignore_eos:true", "--ui-type", "none"]
        command += ["--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", "found"]
        await run_client(command, tmp_path, HF_HOME=str(hub))
        assert await rig.answered() >= REQUESTS
    found = json.loads((tmp_path / "found" / "profile_export_aiperf.json").read_bytes())
    theirs = Reading(
        completed=int(found["request_count"]["avg"]),
        failed=int((found.get("error_request_count") or {"avg": 0})["avg"]),
        ttft_ms_p50=found["time_to_first_token"]["p50"],
        ttft_ms_mean=found["time_to_first_token"]["avg"],
    )
    assert_agrees(theirs, await own_reading(tmp_path, trace, Api.CHAT))


async def test_guidellm_replays_a_mooncake_trace(tmp_path: Path) -> None:
    program = client_program("guidellm")
    trace = write_trace(tmp_path / "trace.jsonl", units_per_s=1000.0)
    in_seconds = write_trace(tmp_path / "seconds.jsonl", units_per_s=1.0)
    async with open_rig(tmp_path) as rig:
        command = [program, "run", "--backend", f"kind=openai_http,target={rig.url},model={MODEL}"]
        command += ["--profile", "kind=replay,time_scale=1.0"]
        command += ["--data", f"kind=mooncake,source.kind=json_file,source.path={in_seconds}"]
        command += ["--tokenizer", f"kind=huggingface_auto,model={rig.model_directory}"]
        command += ["--output", "kind=json,path=found.json", "--disable-console-interactive"]
        await run_client(command, tmp_path)
        assert await rig.answered() >= REQUESTS
    found = json.loads((tmp_path / "found.json").read_bytes())["benchmarks"][0]
    # It may end before it has booked the last answer, which the engines have given all the same.
    counts = found["scheduler_state"]
    times = found["metrics"]["time_to_first_token_ms"]["successful"]
    theirs = Reading(
        completed=counts["successful_requests"],
        failed=counts["errored_requests"] + counts["cancelled_requests"],
        ttft_ms_p50=times["median"],
        ttft_ms_mean=times["mean"],
    )
    assert_agrees(theirs, await own_reading(tmp_path, trace, Api.CHAT), unread_max=1)


def _hub_with(model: Path, home: Path) -> Path:
    """A hub's cache that holds the model as `demo/llama`: aiperf reads no other place offline."""
    revision = "0" * 40
    place = home / "hub" / "models--demo--llama"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    (place / "snapshots").mkdir()
    (place / "snapshots" / revision).symlink_to(model)
    return home
