"""Logs: one line per event, and no secret in any of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from rhizome.ids import new_key
from rhizome.logs import configure_logs, redact


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Puts the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "text",
    [
        "key {} refused",
        "Authorization: Bearer {}",
        "authorization: bearer {}",
        "password={}",
        "api_key: {}",
        "redis://:{}@127.0.0.1:6379/0",
        "rediss://user:{}@host",
        '{{"token": 1}} token={}',
        "redis://:{}@h:1/0 and http://h:1/a@b",
    ],
)
def test_secrets_are_removed(text: str) -> None:
    secret = new_key()
    redacted = redact(text.format(secret))
    assert secret not in redacted
    assert secret[8:] not in redacted
    assert "***" in redacted


@pytest.mark.parametrize(
    "text", ["prompt_tokens=512", "http://127.0.0.1:8000/v1", "12:30:00 worker w0 is ready", "a@b"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_text_lines_name_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "text")
    logging.getLogger("router.x").warning("went to %s", "w0")
    logging.getLogger("router.x").debug("not seen")
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.count("\n") == 1
    assert "WARNING router.x  went to w0" in written.err


def test_json_lines_can_be_read_back_and_hold_the_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs("info", "json")
    try:
        int("password=hunter2222")
    except ValueError:
        logging.getLogger("a").exception("über\nzwei Zeilen, key %s", new_key())
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"]) == ("error", "a")
    assert entry["message"] == "über\nzwei Zeilen, key rzk-***"
    assert "ValueError" in entry["exception"]
    assert "hunter" not in line


def test_a_second_configuration_replaces_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "text")
    configure_logs("warning", "text")
    logging.getLogger("a").info("not seen")
    logging.getLogger("a").error("once")
    assert capsys.readouterr().err.count("\n") == 1
