"""Real Valkey servers for tests, and settings that keep tests out of each other's way."""

from __future__ import annotations

from pydantic import SecretStr

from rhizome.ids import new_id
from rhizome.settings.tree import RedisSettings


def settings_for(url: str, **changes: object) -> RedisSettings:
    """Settings with a fresh namespace on the server at `url`."""
    given = {"url": SecretStr(url), "namespace": new_id("test"), **changes}
    return RedisSettings.model_validate(given)
