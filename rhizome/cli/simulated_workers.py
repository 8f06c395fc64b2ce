"""`rhizome simulated-workers`: many simulated workers in one process, for load tests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhizome.cli.simulation import ProfileOption, SpeedOption, simulated_arguments
from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec
from rhizome.logs import configure_logs
from rhizome.settings.load import load_settings

if TYPE_CHECKING:
    from workers.engine.simulated.fleet import Address


KvBlocks = Annotated[int | None, typer.Option(min=2, help="KV blocks, in place of the profile's.")]
ScaleOut = Annotated[
    bool, typer.Option("--enable-scale-out", help="Render prompts for routers that ask.")
]
Faults = Annotated[bool, typer.Option("--faults", help="Let loopback clients break them.")]
NoKey = Annotated[
    bool, typer.Option("--no-key", help="Plain HTTP and event sockets; loopback only.")
]


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("simulated-workers")(simulated_workers)


def simulated_workers(
    model: Annotated[
        str, typer.Option(help="Whose tokenizer: a directory, demo:llama or demo:mixtral.")
    ] = "demo:llama",
    name: Annotated[str, typer.Option(help="Name that clients ask for.")] = "simulated",
    count: Annotated[int, typer.Option(min=1, max=256, help="Workers.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port_base: Annotated[
        int, typer.Option(min=0, max=65_000, help="First port, the others follow; 0: any.")
    ] = 0,
    profile: ProfileOption = None,
    speed_factor: SpeedOption = None,
    kv_blocks: KvBlocks = None,
    max_model_len: Annotated[
        int | None, typer.Option(help="Longest prompt plus completion, in tokens.")
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="Tokens per KV block.")] = None,
    enable_scale_out: ScaleOut = False,
    faults: Faults = False,
    no_key: NoKey = False,
    key_file: Annotated[
        Path | None, typer.Option(help="File with their key; made when there is none.")
    ] = None,
) -> None:
    """Run simulated workers in the foreground; prints how routers reach them."""
    settings = load_settings(None)
    configure_logs(settings.logs.level, settings.logs.style)
    _refuse_open_door(host, no_key)
    import uvloop

    from workers.engine.simulated.fleet import FleetPlan, serve_fleet
    from workers.lives import models_directory
    from workers.standalone import read_or_make_key

    file = key_file or settings.state_directory.expanduser() / "keys" / "simulated-workers"
    spec = ModelSpec(
        name=name,
        source=model,
        engine="simulated",
        max_model_len=max_model_len,
        block_size=block_size,
        engine_args=simulated_arguments(
            profile=profile,
            speed_factor=speed_factor,
            kv_blocks=kv_blocks,
            scale_out=enable_scale_out,
            faults=faults,
        ),
    )
    plan = FleetPlan(
        spec=spec,
        count=count,
        host=host,
        port_base=port_base,
        api_key=None if no_key else read_or_make_key(file),
        curve=not no_key,
        models_directory=models_directory(settings),
    )
    uvloop.run(serve_fleet(plan, lambda addresses: _print(addresses, None if no_key else file)))


def _refuse_open_door(host: str, no_key: bool) -> None:
    if no_key and host not in {"127.0.0.1", "::1", "localhost"}:
        raise SettingsError(
            "--no-key needs a loopback --host", advice="Leave out --no-key, or --host."
        )


def _print(addresses: Sequence[Address], key_file: Path | None) -> None:
    flags = []
    for number, address in enumerate(addresses):
        parts = [address.url]
        for source in address.events[:1]:
            typer.echo(f"worker {number}: {address.url} events {source.endpoint}")
            parts += [f"events={source.endpoint}", f"topic={source.topic}"]
            parts += [f"replay={source.replay_endpoint}"] if source.replay_endpoint else []
            parts += [f"curve={source.curve_key}"] if source.curve_key else []
        parts += [] if key_file is None else [f"key-file={key_file}"]
        flags.append(f"--worker {shlex.quote(','.join(parts))}")
    typer.echo(f"route to them: rhizome router {' '.join(flags)} --allow-anonymous")
