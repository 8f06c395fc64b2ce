from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from loadtest.comparison.peers import Peer, installed_peer
from rhizome.errors import MissingDependency

PEER = Peer("thing", "1.0", "thing")


def finishing(code: int, output: bytes, seen: list[list[str]]) -> Any:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        seen.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir()
        return subprocess.CompletedProcess(command, code, output)

    return run


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", finishing(0, b"", seen))
    first = installed_peer(PEER, tmp_path)
    assert first == installed_peer(PEER, tmp_path) == tmp_path / "thing-1.0" / "bin" / "thing"
    assert [command[-1] for command in seen] == [str(tmp_path / "thing-1.0"), "thing==1.0"]


def test_one_that_failed_says_why_and_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", finishing(1, b"no matching distribution", seen))
    with pytest.raises(MissingDependency, match="no matching distribution"):
        installed_peer(PEER, tmp_path)
    (tmp_path / "thing-1.0" / "rest").touch()
    monkeypatch.setattr(subprocess, "run", finishing(0, b"", seen))
    installed_peer(PEER, tmp_path)
    assert not (tmp_path / "thing-1.0" / "rest").exists()
