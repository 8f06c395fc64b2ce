"""A whole router on a free loopback port, its fleet filled by hand."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from rhizome.clock import Clock
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings
from router.app import Router, running_router
from router.faults import Part
from router.http.server.connection import Shared
from router.http.server.listener import Listener
from tests.support.fake_engine import FakeEngine


@dataclass(frozen=True)
class Api:
    """Where it listens, and its parts."""

    url: str
    router: Router
    admin_url: str = ""
    """Where the admin API listens, if the settings turn it on."""

    def join(self, *engines: FakeEngine, **fields: object) -> None:
        """Adds engines as workers `w0`, `w1`, … of model `m`."""
        for number, engine in enumerate(engines):
            self.router.fleet.upsert(engine.record(f"w{number}", **fields), 0.0)

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value, 0 if it has not been counted yet."""
        return self.router.registry.get_sample_value(name, labels) or 0.0


def settings_with(**flags: object) -> Settings:
    """Settings from dotted names with `__` for the dot, without file and environment."""
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(None, flags={"router.scheduling.seed": 1, **dotted}, environment={})


@asynccontextmanager
async def running_api(
    settings: Settings | None = None, *, faulty: bool = False, clock: Clock | None = None
) -> AsyncIterator[Api]:
    """Serves a router; ends it with the block, and fails if it has contained faults unless it is
    meant to be `faulty`."""
    settings = settings or settings_with()
    async with running_router(settings, clock) as router, AsyncExitStack() as stack:
        url = await stack.enter_async_context(_listening(router.front))
        admin_url = ""
        if router.admin is not None:
            admin_url = await stack.enter_async_context(_listening(router.admin))
        yield Api(url, router, admin_url)
        faults = router.dispatcher.faults.counts
        assert faulty or not set(faults) - {Part.TOKENIZER, Part.SLOW_DECISION}, faults


@asynccontextmanager
async def _listening(front: Shared) -> AsyncIterator[str]:
    """Serves on a free loopback port; gives the URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = Listener(front)
        await server.open(listener)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        await server.close(0)
