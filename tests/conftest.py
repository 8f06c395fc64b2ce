"""Fixtures for the whole suite.

`valkey_url`: the URL of the one Valkey server that all tests of a run share.
`valkey_stores`: stores on it, under a namespace of the test's own.
`stores`: the same contract twice, in memory and (marked `integration`) on Valkey.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from rhizome.settings.tree import RedisSettings
from rhizome.stores.open import Stores, open_stores
from rhizome.stores.valkey import EmbeddedValkey
from tests.support.valkey import settings_for

# How long an example takes depends on the machine; time is measured in benchmarks, not in tests.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Starts the server at first use; each test takes a namespace of its own on it."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture
async def valkey_stores(valkey_url: str) -> AsyncIterator[Stores]:
    opened = await open_stores(settings_for(valkey_url))
    yield opened
    await opened.close()


@pytest.fixture(params=["memory", pytest.param("valkey", marks=pytest.mark.integration)])
def store_settings(request: pytest.FixtureRequest) -> RedisSettings:
    if request.param == "memory":
        return RedisSettings()
    return settings_for(request.getfixturevalue("valkey_url"))


@pytest.fixture
async def stores(store_settings: RedisSettings) -> AsyncIterator[Stores]:
    opened = await open_stores(store_settings)
    yield opened
    await opened.close()
