"""`rhizome controller`: keeps the asked-for workers alive through Ray, and moves their number."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from rhizome.logs import configure_logs
from rhizome.settings.load import load_settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("controller")
    def controller(
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
        ray_address: Annotated[
            str | None, typer.Option(help="Ray cluster, `host:port` or `ray://host:port`.")
        ] = None,
        metrics_port: Annotated[
            int | None, typer.Option(help="Port of /metrics and /health.")
        ] = None,
    ) -> None:
        """Run a controller. Several may run: one leads, the others stand by."""
        settings = load_settings(
            config,
            flags={
                "controller.ray_address": ray_address,
                "controller.metrics_port": metrics_port,
            },
        )
        configure_logs(settings.logs.level, settings.logs.style)
        from cluster.process import run_controller

        asyncio.run(run_controller(settings))
