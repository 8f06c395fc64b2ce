from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rhizome.settings.cluster import BatchSettings
from rhizome.settings.tree import RedisSettings
from rhizome.stores.open import open_stores
from tests.support.batches import BatchBench, HastyClock


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[BatchBench]:
    settings = BatchSettings(file_bytes_max=64 * 1024, lines_max=100, line_bytes_max=2048)
    clock = HastyClock()
    stores = await open_stores(RedisSettings(), clock=clock)
    opened = BatchBench(stores, settings, tmp_path / "files", clock)
    yield opened
    await opened.close()
