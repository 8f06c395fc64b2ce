"""`rhizome router`: one router, in front of static workers or of a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhizome.logs import configure_logs
from rhizome.settings.load import load_settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("router")
    def router(
        worker: Annotated[
            list[str] | None,
            typer.Option(
                help="A worker: URL[,events=ENDPOINT][,replay=ENDPOINT][,topic=TOPIC][,curve=KEY]"
                "[,key-file=PATH]. Repeat for more; it may be down at the start."
            ),
        ] = None,
        tokenizer: Annotated[
            Path | None, typer.Option(help="Directory with tokenizer.json and chat template.")
        ] = None,
        policy: Annotated[str | None, typer.Option(help="How a worker is chosen.")] = None,
        host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
        port: Annotated[int | None, typer.Option(help="Port of the API.")] = None,
        metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics.")] = None,
        processes: Annotated[
            int | None, typer.Option(help="Router processes behind the port.")
        ] = None,
        allow_anonymous: Annotated[
            bool | None,
            typer.Option("--allow-anonymous", help="Serve without keys."),
        ] = None,
        admin_port: Annotated[
            int | None,
            typer.Option(help="Port of the admin API, which is on where router.admin has a key."),
        ] = None,
        open_admin: Annotated[
            bool | None,
            typer.Option("--open-admin", help="Serve the admin API on loopback without a key."),
        ] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """Run a router. Without --worker it finds workers through the registry in Redis."""
        flags = {
            "router.workers": tuple(worker) if worker else None,
            "router.tokenizer": tokenizer,
            "router.scheduling.policy": policy,
            "router.host": host,
            "router.port": port,
            "router.metrics_port": metrics_port,
            "router.processes": processes,
            "router.allow_anonymous": allow_anonymous,
            "router.admin.port": admin_port,
            "router.admin.allow_anonymous": open_admin,
        }
        settings = load_settings(config, flags=flags)
        configure_logs(settings.logs.level, settings.logs.style)
        if settings.router.processes > 1:
            from router.processes.serving import serve_processes

            serve_processes(settings, lambda: load_settings(config, flags=flags))
        else:
            from router.process import serve_router

            serve_router(settings)
