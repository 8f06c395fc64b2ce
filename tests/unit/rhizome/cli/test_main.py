import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rhizome import __version__
from rhizome.cli.errors import explain
from rhizome.cli.main import application, main
from rhizome.errors import PortInUse
from rhizome.settings.load import load_settings

COMMANDS = {
    *("up", "down", "status", "chat", "explain", "scale", "doctor", "config"),
    *("router", "worker", "controller", "batch", "calibrate", "simulated-workers"),
}


def run(*arguments: str) -> str:
    result = CliRunner().invoke(application(), arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_command_is_there_and_explains_itself() -> None:
    names = {command.name for command in application().registered_commands}
    assert names == COMMANDS
    for name in names:
        assert "Usage" in run(str(name), "--help")


def test_the_version_is_printed_alone() -> None:
    assert run("--version") == f"{__version__}\n"


def test_an_error_is_told_with_advice_and_its_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = PortInUse("port 1 is in use, token=verysecret", advice="Take another.")
    assert explain(error) == 3
    said = capsys.readouterr().err
    assert said == "error: port 1 is in use, token=***\n  Take another.\n"


def test_the_entry_point_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["rhizome", "config", "--config", str(tmp_path / "absent.yaml")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot read the settings file")


def test_config_prints_settings_that_can_be_read_back(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("router: {port: 8123, api_keys: [verysecret]}")
    shown = yaml.safe_load(run("config", "--config", str(file)))
    assert shown["router"]["port"] == 8123
    assert shown["router"]["api_keys"] == ["***"]
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(shown))
    assert load_settings(again).router.port == 8123


def test_the_schema_tells_type_default_and_meaning() -> None:
    lines = run("config", "--schema").splitlines()
    index = lines.index("router.port: integer 0..65535 = 8000")
    assert lines[index + 1].strip() == "Port of the API."
    assert any(line.startswith("models[].source: string") for line in lines)


def test_the_json_schema_is_json() -> None:
    assert json.loads(run("config", "--json-schema"))["properties"]["router"]
