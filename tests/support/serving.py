"""A whole router on a free loopback port, its fleet filled by hand."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings
from rhizome.tasks import Tasks
from router.app import Router, running_router
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Api:
    """Where it listens, and its parts."""

    url: str
    router: Router

    def join(self, *engines: FakeEngine, **fields: object) -> None:
        """Adds engines as workers `w0`, `w1`, … of model `m`."""
        for number, engine in enumerate(engines):
            self.router.fleet.upsert(engine.record(f"w{number}", **fields), 0.0)

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value, 0 if it has not been counted yet."""
        return self.router.registry.get_sample_value(name, labels) or 0.0


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def settings_with(**flags: object) -> Settings:
    """Settings from dotted names with `__` for the dot, without file and environment."""
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return load_settings(None, flags={"router.scheduling.seed": 1, **dotted}, environment={})


@asynccontextmanager
async def running_api(settings: Settings | None = None) -> AsyncIterator[Api]:
    """Serves a router; ends it with the block."""
    settings = settings or settings_with()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with running_router(settings) as router, Tasks("test-api") as tasks:
            server = _Server(
                uvicorn.Config(router.app, log_config=None, lifespan="off", access_log=False)
            )
            serving = tasks.start("serve", server.serve(sockets=[listener]))
            await eventually(lambda: server.started)
            yield Api(url, router)
            server.should_exit = True
            server.force_exit = True
            await serving
