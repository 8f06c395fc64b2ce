"""Errors carry what their border needs; the tree itself is checked in tests/meta."""

from __future__ import annotations

from rhizome.errors import PortInUse, QueueFull, StartError, UnknownModel


def test_a_request_error_says_what_when_and_where() -> None:
    error = QueueFull("full", retry_after_s=3.5)
    assert str(error) == error.message == "full"
    assert (error.status, error.retryable, error.retry_after_s) == (429, True, 3.5)
    assert UnknownModel("no such model", param="model").body()["error"]["param"] == "model"


def test_a_start_error_says_what_is_wrong_and_what_to_do() -> None:
    error = PortInUse("port 8000 is in use", advice="Choose another port.")
    assert isinstance(error, StartError)
    assert (str(error), error.advice, error.exit_code) == (
        "port 8000 is in use",
        "Choose another port.",
        3,
    )
