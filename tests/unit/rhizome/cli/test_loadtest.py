"""`rhizome loadtest`: what a start refuses, and what is never shown."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rhizome.cli.load_options import command_line
from rhizome.cli.main import application
from rhizome.errors import StartError
from tests.support.load_models import PacedServer, running_paced, save_demo_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_demo_tokenizer(tmp_path_factory.mktemp("demo-tokenizer"))


async def invoked(*words: object) -> Result:
    """The command in a thread: it has an event loop of its own."""
    given = ["loadtest", *map(str, words)]
    return await asyncio.to_thread(lambda: CliRunner().invoke(application(), given))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--model", "x"], 11, "does not serve the model 'x'"),
        (["-w", "sesions"], 2, "did you mean 'sessions'"),
        (["--trace", "none.jsonl"], 10, "none.jsonl cannot be read"),
        (["-w", "agents", "--trace", "none.jsonl"], 2, "a trace does not fit"),
        (["-w", "mooncake", "--set", "block_tokens=16"], 10, ":1: 6758 tokens are 423 blocks"),
        (["-w", "mooncake", "--real-answers"], 2, "fed back in chats only"),
        (["--curve", "none.csv"], 10, "none.csv cannot be read"),
        (["--set", "turns"], 2, "is not NAME=VALUE"),
        (["--tenant", "a=x"], 2, "--tenant needs NAME=WEIGHT"),
        (["--extra", "[1]"], 2, "must be a JSON object"),
        (["--extra", "{"], 2, "--extra is not JSON"),
        (["--keys", "none.yaml"], 2, "the keys cannot be read"),
        (["--rate", "0"], 2, "rate_per_s must be above 0"),
        (["--duration", "-1"], 2, "duration_s must be above 0"),
        (["-o", "/dev/null/a.json"], 2, "/dev/null/a.json cannot be written"),
        (["--html", "/dev"], 2, "/dev cannot be written"),
        (["--save-requests", "/dev/null/a"], 2, "/dev/null/a cannot be written"),
    ],
)
async def test_a_start_that_cannot_be_is_told(
    tokenizer: Path, words: list[str], code: int, said: str
) -> None:
    async with running_paced(PacedServer(root=str(tokenizer))) as server:
        result = await invoked("run", "--url", server.url, *words)
    assert isinstance(result.exception, StartError)
    assert result.exception.exit_code == code
    assert said in result.exception.message


@pytest.mark.parametrize("rates", ["", "1,x", "0,1", "-2"])
async def test_a_sweep_needs_rates(rates: str) -> None:
    result = await invoked("sweep", "--url", "http://127.0.0.1:1", f"--rates={rates}")
    assert isinstance(result.exception, StartError)


async def test_workloads_are_listed_with_their_settings() -> None:
    result = await invoked("workloads")
    assert result.exit_code == 0
    assert "mooncake" in result.output
    assert "prefix_tokens=4000" in result.output


async def test_a_report_needs_results(tmp_path: Path) -> None:
    result = await invoked("report", tmp_path / "none.json")
    assert isinstance(result.exception, StartError)
    assert "none.json is no result of a load test" in result.exception.message


@pytest.mark.parametrize("words", [["--api-key", "k1"], ["--api-key=k1"]])
def test_the_command_is_kept_without_keys(
    monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rhizome", "loadtest", "run", *words, "--seed", "3"])
    kept = command_line()
    assert "k1" not in kept
    assert kept.startswith("rhizome loadtest run ")
    assert "--api-key" in kept
    assert kept.endswith("--seed 3")
