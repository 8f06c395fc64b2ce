"""`rhizome batch`: one runner for the lines of batches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhizome.logs import configure_logs
from rhizome.settings.load import load_settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("batch")
    def batch(
        router_url: Annotated[
            str | None, typer.Option(help="Router to send lines to, http://host:port.")
        ] = None,
        concurrency: Annotated[int | None, typer.Option(help="Lines kept in flight.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """Run a batch runner: it sends the lines of batches to a router. Many may run."""
        settings = load_settings(
            config, flags={"batch.router_url": router_url, "batch.concurrency": concurrency}
        )
        configure_logs(settings.logs.level, settings.logs.style)
        from router.batch.process import serve_batches

        serve_batches(settings)
