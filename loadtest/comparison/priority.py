"""Priority for all programs of a comparison, on a machine that does other work too.

`nice` alone does not do it: where Linux groups processes by session (autogroup), a niceness holds
within its group only, and every program here has a session of its own. So the groups get it too.
Only root may ask for more than the usual share.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from rhizome.clock import Clock

_LOOK_S = 0.2


async def keep_family_at(niceness: int, clock: Clock) -> None:
    """Sets the niceness of this process and of all that it starts, until cancelled."""
    known: set[int] = set()
    own = psutil.Process()
    while True:
        for process in [own, *own.children(recursive=True)]:
            # A program is given its session when it has been started: look at each once more.
            if process.pid not in known and _set(process, niceness, clock):
                known.add(process.pid)
        await clock.sleep(_LOOK_S)


def _set(process: psutil.Process, niceness: int, clock: Clock) -> bool:
    """Whether it will stay so."""
    with contextlib.suppress(psutil.Error, OSError):
        process.nice(niceness)
        Path(f"/proc/{process.pid}/autogroup").write_text(str(niceness), encoding="ascii")
        return clock.wall_s() - process.create_time() > 1.0
    return False
