"""Programs that stand in for the cluster's processes: `python -m tests.integration.local.stand_in`.

`supervise DIRECTORY`: a warden, a supervisor with three services, and grandchildren of theirs.
`serve NAME`: a service that starts a child of its own in a new session and waits.
`stubborn`: ignores SIGTERM.
Each writes its pid to `DIRECTORY/pids`. Only who supervises imports what is Rhizome's: there are
many of the others.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SERVICES = ("router", "batch", "controller")


def note_pid(directory: Path) -> None:
    (directory / "pids").mkdir(exist_ok=True)
    (directory / "pids" / str(os.getpid())).touch()


def supervise(directory: Path) -> int:
    note_pid(directory)
    return asyncio.run(_supervise(directory))


async def _supervise(directory: Path) -> int:
    from cluster.local.layout import ClusterFiles
    from cluster.local.services import Services, child_environment
    from rhizome.clock import SystemClock

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    files = ClusterFiles(directory)
    files.make()
    clock = SystemClock()
    services = Services(files, child_environment(files), clock, lambda line: None)
    for name in SERVICES:
        command = [sys.executable, "-m", __spec__.name, "serve", str(directory)]
        services.start(name, command, grace_s=5.0)
    await stop.wait()
    await services.stop(*SERVICES)
    return 0


def serve(directory: Path) -> int:
    note_pid(directory)
    child = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "stubborn", str(directory)], start_new_session=True
    )
    child.wait()
    return 0


def stubborn(directory: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note_pid(directory)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    role, place = sys.argv[1], Path(sys.argv[2])
    if role == "supervise":
        from cluster.local.warden import run_warded

        note_pid(place)
        sys.exit(run_warded(lambda: supervise(place), grace_s=0.3))
    sys.exit({"serve": serve, "stubborn": stubborn}[role](place))
