"""`rhizome worker`: one worker without Ray, for a router that is given its address."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from rhizome.cli.simulation import EngineName, ProfileOption, SpeedOption, simulated_arguments
from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord
from rhizome.ids import new_id
from rhizome.logs import configure_logs
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("worker")
    def worker(
        model: Annotated[
            str,
            typer.Option(
                help="A directory, a hub id, demo:llama, demo:mixtral, or the name of a model in "
                "the settings."
            ),
        ],
        name: Annotated[str | None, typer.Option(help="Name that clients ask for.")] = None,
        host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
        port: Annotated[int, typer.Option(help="Port of the engine's API; 0: any.")] = 0,
        worker_id: Annotated[str | None, typer.Option(help="Id of the worker.")] = None,
        key_file: Annotated[
            Path | None, typer.Option(help="File with its key; made when there is none.")
        ] = None,
        kv_cache_memory: Annotated[
            str | None, typer.Option(help="Bytes for the KV cache, e.g. 200M.")
        ] = None,
        max_model_len: Annotated[
            int | None, typer.Option(help="Longest prompt plus completion, in tokens.")
        ] = None,
        block_size: Annotated[int | None, typer.Option(help="Tokens per KV block.")] = None,
        engine: Annotated[EngineName | None, typer.Option(help="What runs the model.")] = None,
        profile: ProfileOption = None,
        speed_factor: SpeedOption = None,
        engine_arg: Annotated[
            list[str] | None,
            typer.Option(help="One of the engine's own flags: NAME=VALUE. Repeat for more."),
        ] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """Run one worker in the foreground; prints how a router reaches it."""
        settings = load_settings(config, flags={"worker.host": host})
        configure_logs(settings.logs.level, settings.logs.style)
        fields = {
            "kv_cache_memory": kv_cache_memory,
            "max_model_len": max_model_len,
            "block_size": block_size,
            "engine": None if engine is None else engine.value,
            "engine_args": (
                _engine_args(engine_arg or [])
                | simulated_arguments(profile=profile, speed_factor=speed_factor)
            )
            or None,
        }
        spec = _spec(settings, model, name, fields)
        from workers.lives import WorkerPlan
        from workers.standalone import read_or_make_key, serve_worker

        own_id = worker_id or new_id("worker")
        file = key_file or settings.state_directory.expanduser() / "keys" / own_id
        key = read_or_make_key(file)
        plan = WorkerPlan(own_id, spec, settings, port=port, api_key=key)
        asyncio.run(serve_worker(plan, lambda record: _print_access(record, file)))


def _spec(settings: Settings, model: str, name: str | None, fields: dict[str, Any]) -> ModelSpec:
    """The named model of the settings, or one from the flags; given flags win."""
    given = {key: value for key, value in fields.items() if value is not None}
    if name is not None:
        given["name"] = name
    known = next((spec for spec in settings.models if spec.name == model), None)
    base = known.model_dump() if known else {"name": _served_name(model), "source": model}
    try:
        return ModelSpec.model_validate(base | given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        words = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in faults
        )
        raise SettingsError(f"the worker's model is not valid: {words}") from error


def _served_name(source: str) -> str:
    """A name for a model that was given without one: `demo-llama`, or the directory's own."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).is_dir():
        return source
    last = source.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._") or "model"


def _engine_args(pairs: list[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        flag, _, text = pair.partition("=")
        try:
            values[flag] = yaml.safe_load(text) if text else True
        except yaml.YAMLError:
            values[flag] = text
    return values


def _print_access(record: WorkerRecord, key_file: Path) -> None:
    parts = [record.url]
    for source in record.events[:1]:
        parts.append(f"events={source.endpoint}")
        if source.replay_endpoint:
            parts.append(f"replay={source.replay_endpoint}")
        parts.append(f"topic={source.topic}")
        if source.curve_key:
            parts.append(f"curve={source.curve_key}")
    flag = shlex.quote(",".join([*parts, f"key-file={key_file}"]))
    typer.echo(f"worker {record.worker_id} serves {record.model} at {record.url}")
    typer.echo(f"key file: {key_file}")
    for source in record.events:
        typer.echo(f"events of rank {source.rank}: {source.endpoint} ({source.replay_endpoint})")
    typer.echo(f"route to it: rhizome router --worker {flag} --allow-anonymous")
