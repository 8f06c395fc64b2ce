"""`rhizome simulate`: results that reports read, and errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from loadtest.results import RunResult, SweepResult, read_result
from rhizome.cli.main import application
from rhizome.errors import NotEnoughMemory, SettingsError, StartError, TraceError


def call(*words: str) -> Result:
    return CliRunner().invoke(application(), ["simulate", *words])


def fault(*words: str) -> StartError:
    error = call(*words).exception
    assert isinstance(error, StartError), error
    return error


def test_a_comparison_prints_a_table_and_writes_results_and_a_page(tmp_path: Path) -> None:
    policies = ("--policy", "cost", "--policy", "round_robin")
    output, page = tmp_path / "out.json", tmp_path / "out.html"
    asked = ("--workers", "2", "--rate", "4", "--requests", "60", "--block-size", "64")
    result = call("run", *policies, *asked, "-o", str(output), "--html", str(page))
    assert result.exit_code == 0, result.output
    assert "round" in result.output
    for policy in ("cost", "round_robin"):
        run = read_result(tmp_path / f"out-{policy}.json")
        assert isinstance(run, RunResult)
        assert run.valid
        assert run.summary.completed == 60
        assert run.plan["simulation"]["policy"] == policy
    assert "round_robin" in page.read_text(encoding="utf-8")


def test_a_size_is_found_and_its_sweep_can_be_reported(tmp_path: Path) -> None:
    output = tmp_path / "size.json"
    asked = ("--rate", "10", "--requests", "50", "--block-size", "256", "--slo-ttft-p99-ms", "300")
    result = call("size", *asked, "--scales", "1,4", "--refine", "0", "-o", str(output))
    assert result.exit_code == 0, result.output
    assert "workers keep p99 TTFT under 300 ms" in result.output
    sweep = read_result(output)
    assert isinstance(sweep, SweepResult)
    assert sweep.levels


def test_a_promise_that_cannot_be_kept_ends_with_status_1(tmp_path: Path) -> None:
    asked = ("--slo-ttft-p99-ms", "0.5", "--workers-max", "4", "--rate", "4", "--requests", "40")
    result = call("size", *asked, "-o", str(tmp_path / "size.json"))
    assert result.exit_code == 1
    assert "keeps the promise" in result.output


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        (("--policy", "best"), SettingsError, "no policy 'best'"),
        (("--profile", "abacus"), StartError, "no engine profile 'abacus'"),
        (("--workload", "sesions"), SettingsError, "did you mean 'sessions'"),
        (("--workload", "mooncake", "--trace", "/nowhere"), TraceError, "/nowhere"),
        (("--workers", "1", "--workers", "2"), SettingsError, "1 profiles and 2 numbers"),
        (("--workers", "0"), SettingsError, "at least 1"),
        (("--workers", "100000000"), NotEnoughMemory, "GiB are free"),
        (("--fail", "soon:1"), SettingsError, "SECONDS:WORKER"),
        (("--fail", "1:99"), SettingsError, "no worker 99"),
        (("--join", "1"), SettingsError, "SECONDS:WORKER"),
        (("--join", "1:99"), SettingsError, "no worker 99"),
        (("--join", "-1:1"), SettingsError, "0 or more"),
        (("--block-size", "0"), SettingsError, "block of 0 tokens"),
    ],
)
def test_what_cannot_be_simulated_is_told(
    words: tuple[str, ...], kind: type[StartError], said: str
) -> None:
    error = fault("run", "--requests", "10", *words)
    assert isinstance(error, kind)
    assert said in f"{error.message} {error.advice}"


def test_a_broken_trace_names_its_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    line = '{"timestamp": 0, "input_length": 10, "output_length": 3, "hash_ids": [1]}\n'
    trace.write_text(line + '{"timestamp": oh}\n', encoding="utf-8")
    error = fault("run", "--workload", "mooncake", "--trace", str(trace))
    assert isinstance(error, TraceError)
    assert "trace.jsonl:2" in error.message
