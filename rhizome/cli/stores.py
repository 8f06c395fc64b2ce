"""Finds the stores of a running cluster for commands that look at it or steer it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rhizome.errors import ClusterError
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings
from rhizome.stores.open import Stores, open_stores


def cluster_settings(config: Path | None, name: str | None) -> Settings:
    """The settings of the cluster meant: from `config`, else from the local cluster `name`.

    Raises `ClusterError` when no such cluster runs on this machine, `SettingsError` for bad ones.
    """
    if config is not None:
        return load_settings(config)
    settings = load_settings(flags={"name": name})
    if settings.redis.url is not None:
        return settings
    from cluster.local.layout import ClusterFiles

    written = ClusterFiles.of(settings.state_directory, settings.name).settings
    if not written.is_file():
        raise ClusterError(
            f"no cluster named {settings.name!r} runs on this machine",
            advice="Start one with `rhizome up`, or give its settings with `--config FILE`.",
        )
    return load_settings(written)


@asynccontextmanager
async def cluster_stores(settings: Settings) -> AsyncIterator[Stores]:
    """The cluster's shared stores; raises `ClusterError` where there are none to share."""
    if settings.redis.url is None:
        raise ClusterError(
            "the settings name no Redis, so there is nothing that this command could ask",
            advice="Set `redis.url`, or use `rhizome up`.",
        )
    stores = await open_stores(settings.redis)
    try:
        yield stores
    finally:
        await stores.close()
