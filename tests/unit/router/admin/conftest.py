"""What the tests of the admin API share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.support.serving import Api
from tests.unit.router.admin.rig import serving


@pytest.fixture
async def both() -> AsyncIterator[tuple[Api, httpx.AsyncClient]]:
    async with serving() as found:
        yield found


@pytest.fixture
def log_level() -> Iterator[None]:
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)
