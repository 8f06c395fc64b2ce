from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rhizome.cli.main import application
from rhizome.errors import SettingsError, TargetUnusable
from tests.support.step_engine import StepEngine, running_step_engine
from workers.engine.simulated.profile import load_profile


async def calibrate(*arguments: str) -> str:
    """Runs the command in a thread, beside the engine that it measures."""
    run = CliRunner().invoke
    result = await asyncio.to_thread(run, application(), ["calibrate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


async def test_a_profile_is_written_that_the_simulated_engine_reads(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("secret\n")
    file = tmp_path / "mine.json"
    async with running_step_engine(StepEngine(key="secret")) as engine:
        output = await calibrate(
            engine.url, "-o", str(file), "--key-file", str(key_file), "--rounds", "1",
            "--prompt-max", "1024", "--sequences-max", "4", "--gpu", "X",
        )  # fmt: skip
    assert f"wrote {file}" in output.replace("\n", "")
    profile = load_profile(file)
    assert (profile.name, profile.gpu, profile.kv_blocks) == ("mine", "X", 4001)
    assert "secret" not in file.read_text()
    assert json.loads(file.read_text())["calibration"]["rounds"] == 1


async def test_a_dead_target_ends_with_its_own_error(tmp_path: Path) -> None:
    async with running_step_engine(StepEngine()) as engine:
        url = engine.url
    with pytest.raises(TargetUnusable, match="does not answer"):
        await calibrate(url, "-o", str(tmp_path / "x.json"))


async def test_a_key_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nokey"):
        await calibrate("http://127.0.0.1:1", "--key-file", str(tmp_path / "nokey"))
