"""`rhizome down`: ends a cluster of `rhizome up`, wherever it was started from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhizome.settings.load import load_settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("down")
    def down(
        name: Annotated[str | None, typer.Option(help="The cluster's name.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """End a local cluster and wait until none of its processes is left."""
        import asyncio

        from cluster.local.front import end_cluster
        from cluster.local.layout import ClusterFiles
        from rhizome.clock import SystemClock

        settings = load_settings(config, flags={"name": name})
        files = ClusterFiles.of(settings.state_directory, settings.name)
        if asyncio.run(end_cluster(files, SystemClock())):
            typer.echo(f"the cluster {settings.name!r} has ended")
        else:
            typer.echo(f"the cluster {settings.name!r} does not run")
