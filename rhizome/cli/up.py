"""`rhizome up`: a whole cluster on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rhizome.cli.errors import explain
from rhizome.cli.simulation import EngineName, ProfileOption, SpeedOption, simulated_arguments


class DeviceName(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("up")(up)


def up(
    model: Annotated[
        str | None,
        typer.Option(
            help="What to serve: a directory, a hub id, demo:llama or demo:mixtral. "
            "Without it: the settings' models, else both demonstrations."
        ),
    ] = None,
    served_name: Annotated[str | None, typer.Option(help="The name that clients ask for.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, max=10_000, help="Workers of each model.")
    ] = None,
    engine: Annotated[EngineName | None, typer.Option(help="What runs the model.")] = None,
    profile: ProfileOption = None,
    speed_factor: SpeedOption = None,
    device: Annotated[DeviceName | None, typer.Option(help="What it runs on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="Port of the API; 8000 unless set.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The cluster's name; two names run side by side.")
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(help="A Redis of your own; without it a Valkey is started."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once the cluster is ready.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
) -> None:
    """Run a whole cluster on this machine: store, Ray, workers, controller, router."""
    from cluster.local.front import run_in_foreground, start_detached
    from cluster.local.plan import Asked, plan_settings

    settings = plan_settings(
        Asked(
            config=config,
            name=name,
            port=port,
            redis_url=redis_url,
            model=model,
            served_name=served_name,
            workers=workers,
            engine=None if engine is None else engine.value,
            engine_args=simulated_arguments(profile=profile, speed_factor=speed_factor),
            device=None if device is None else device.value,
        )
    )
    if detach:
        start_detached(settings, typer.echo)
        return
    from rich.console import Console

    from cluster.local.progress import progress_on

    raise typer.Exit(run_in_foreground(settings, lambda: progress_on(Console()), explain))
