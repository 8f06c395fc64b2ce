from __future__ import annotations

import pytest

from cluster.process import run_controller
from rhizome.errors import SettingsError
from rhizome.settings.tree import Settings


async def test_a_controller_without_a_store_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"needs `redis\.url`"):
        await run_controller(Settings())


async def test_a_controller_without_a_ray_is_refused() -> None:
    settings = Settings.model_validate({"redis": {"url": "redis://127.0.0.1:1/0"}})
    with pytest.raises(SettingsError, match=r"needs `controller\.ray_address`"):
        await run_controller(settings)
