"""What the watching process tells a router process over its standard input, and hears from it."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import msgspec
from pydantic import ValidationError

from rhizome.errors import SettingsError
from rhizome.settings.dump import settings_tree
from rhizome.settings.tree import Settings

READY = b"ready\n"
"""What a process writes to its standard output when it serves."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """How one process shall run. Holds secrets: it passes through a pipe and nowhere else."""

    number: int
    """Counts the processes from 1, those that were replaced included."""
    settings: dict[str, Any]
    api_fd: int
    """The inherited socket of the API, which may not listen yet."""
    metrics_fd: int
    """The same of the metrics page, which only the watching process reads."""
    admin_fd: int | None
    siblings: str
    """Directory in which the processes hear each other."""
    settle_s: float
    """How long to look for workers before serving without them."""

    def typed_settings(self) -> Settings:
        """Raises `SettingsError`."""
        try:
            return Settings.model_validate(self.settings)
        except ValidationError as error:
            raise SettingsError(f"the settings are not valid: {error}") from error


def written(order: Order) -> bytes:
    """The order as one line."""
    return msgspec.json.encode(order) + b"\n"


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as an order holds them, secrets revealed."""
    return settings_tree(settings, reveal_secrets=True)


def read_order(source: BinaryIO | None = None) -> Order:
    """The order on standard input."""
    return msgspec.json.decode((source or sys.stdin.buffer).readline(), type=Order)
