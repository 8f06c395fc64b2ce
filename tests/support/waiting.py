"""Waiting for a condition instead of for a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def eventually(
    claim: Callable[[], Awaitable[bool] | bool], within_s: float = 10.0, every_s: float = 0.02
) -> None:
    """Returns once `claim` holds; fails the test when it does not within `within_s`."""
    deadline_s = time.monotonic() + within_s
    while True:
        held = claim()
        if await held if inspect.isawaitable(held) else held:
            return
        assert time.monotonic() < deadline_s, f"did not come true within {within_s} s"
        await asyncio.sleep(every_s)
