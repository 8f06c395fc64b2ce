"""One worker without Ray, in the foreground: `rhizome worker`.

Registers itself where a Redis is configured, else is reached by whoever is given its address and
key. SIGTERM and SIGINT drain it; a second one ends it at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from rhizome.clock import SystemClock
from rhizome.errors import SettingsError
from rhizome.fleet.records import WorkerRecord
from rhizome.ids import new_key
from rhizome.stores.open import open_stores
from rhizome.tasks import Tasks
from workers.lives import WorkerPlan, new_life
from workers.runner import WorkerRunner


async def serve_worker(plan: WorkerPlan, announce: Callable[[WorkerRecord], None]) -> None:
    """Returns after a signal; raises `StartError` with the cause when the engine fails or dies."""
    clock = SystemClock()
    stores = await open_stores(plan.settings.redis)
    try:
        runner = new_life(plan, stores.registry, clock)
        async with Tasks("worker") as tasks:
            _obey_signals(runner, tasks)
            tasks.start("announce", _announce(runner, announce))
            await runner.run()
    finally:
        await stores.close()


def read_or_make_key(file: Path) -> str:
    """The key in `file`; a new one is written there, for the owner only, when there is none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(file)
    except OSError as error:
        raise SettingsError(f"cannot write the key file {file}: {error}") from error
    key = new_key()
    with os.fdopen(handle, "w") as out:
        out.write(key + "\n")
    return key


def _read_key(file: Path) -> str:
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the key file {file}: {error}") from error
    if len(key) < 16 or not key.isprintable() or " " in key:
        raise SettingsError(
            f"the key file {file} holds no key of at least 16 characters",
            advice="Remove it to have a new one made.",
        )
    return key


async def _announce(runner: WorkerRunner, announce: Callable[[WorkerRecord], None]) -> None:
    await runner.wait_ready()
    announce(runner.record)


def _obey_signals(runner: WorkerRunner, tasks: Tasks) -> None:
    asked = False

    def leave() -> None:
        nonlocal asked
        tasks.start("leave", runner.stop() if asked else runner.drain())
        asked = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
