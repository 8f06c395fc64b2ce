"""`rhizome status`: the fleet, the targets and what the controller says, as tables or JSON."""

from __future__ import annotations

import asyncio
import json

import typer
from rich.console import Console

from rhizome.cli.admin import (
    AdminApi,
    AdminOption,
    ConfigOption,
    JsonOption,
    KeyFileOption,
    NameOption,
    find_admins,
)
from rhizome.cli.fleet_tables import fleet_json, print_fleet
from rhizome.cli.fleet_view import FleetView, read_fleet
from rhizome.cli.router_opinions import ask_routers, with_opinions
from rhizome.cli.stores import cluster_settings, cluster_stores
from rhizome.clock import SystemClock
from rhizome.errors import StoreUnavailable, StoreUnreachable
from rhizome.settings.tree import Settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("status")
    def status(
        as_json: JsonOption = False,
        admin: AdminOption = None,
        key_file: KeyFileOption = None,
        name: NameOption = None,
        config: ConfigOption = None,
    ) -> None:
        """Show the workers, what each model is to have and why, and what is wrong.

        Trust and warm-ups are what routers know; where none answers they are blank.
        """
        settings = cluster_settings(config, name)
        admins = find_admins(admin, key_file, name, config)
        view = asyncio.run(_read(settings, admins))
        if as_json:
            typer.echo(json.dumps(fleet_json(view), indent=2))
        else:
            print_fleet(view, Console())


async def _read(settings: Settings, admins: list[AdminApi]) -> FleetView:
    async with cluster_stores(settings) as stores:
        try:
            view = await read_fleet(stores, SystemClock())
            return with_opinions(view, await ask_routers(admins))
        except StoreUnavailable as error:
            raise StoreUnreachable(
                f"the cluster's store does not answer: {error.message}",
                advice="Look at the server at `redis.url`.",
            ) from error
