"""Starts a worker over when it failed, with growing pauses; a worker that left stays away."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from rhizome.clock import Clock
from rhizome.errors import StartError

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_STEADY_S = 60.0
"""A life this long was no failure to start: the next pause is short again."""


async def keep_living(
    live: Callable[[], Awaitable[None]], clock: Clock, pause_s_max: float
) -> None:
    """Calls `live` until it returns; each `StartError` is followed by a pause and a new life.

    The pause doubles from one second up to `pause_s_max`.
    """
    pause_s = min(_FIRST_PAUSE_S, pause_s_max)
    while True:
        began_s = clock.monotonic_s()
        try:
            await live()
        except StartError as error:
            if clock.monotonic_s() - began_s >= _STEADY_S:
                pause_s = min(_FIRST_PAUSE_S, pause_s_max)
            _log.error("%s; the next start is in %.0f s", error.message, pause_s)
        else:
            return
        await clock.sleep(pause_s)
        pause_s = min(pause_s * 2, pause_s_max)
