"""`rhizome status`: the fleet, the targets and what the controller says, as tables or JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhizome.cli.fleet_tables import fleet_json, print_fleet
from rhizome.cli.fleet_view import FleetView, read_fleet
from rhizome.cli.stores import cluster_settings, cluster_stores
from rhizome.clock import SystemClock
from rhizome.errors import StoreUnavailable, StoreUnreachable
from rhizome.settings.tree import Settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("status")
    def status(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
        name: Annotated[str | None, typer.Option(help="A local cluster's name.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """Show the workers, what each model is to have and why, and what is wrong."""
        settings = cluster_settings(config, name)
        view = asyncio.run(_read(settings))
        if as_json:
            typer.echo(json.dumps(fleet_json(view), indent=2))
        else:
            print_fleet(view, Console())


async def _read(settings: Settings) -> FleetView:
    async with cluster_stores(settings) as stores:
        try:
            return await read_fleet(stores, SystemClock())
        except StoreUnavailable as error:
            raise StoreUnreachable(
                f"the cluster's store does not answer: {error.message}",
                advice="Look at the server at `redis.url`.",
            ) from error
