"""`rhizome workers`: the workers as a router sees them; adding, removing and draining by hand."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rhizome.cli.admin import (
    AdminApi,
    AdminOption,
    ConfigOption,
    JsonOption,
    KeyFileOption,
    NameOption,
    ask_each,
    each_router,
    find_admins,
)
from rhizome.cli.errors import explain

_COLOURS = {"ready": "green", "loading": "yellow", "warming": "yellow", "draining": "cyan"}
WorkerArgument = Annotated[str, typer.Argument(help="The worker's id, as `list` shows it.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    workers = typer.Typer(
        help="Look at a router's workers; add, remove and drain them.", no_args_is_help=True
    )
    app.add_typer(workers, name="workers")
    workers.command("list")(show)
    workers.command("add")(add)
    workers.command("remove")(remove)
    workers.command("drain")(drain)
    workers.command("resume")(resume)


def show(
    as_json: JsonOption = False,
    admin: AdminOption = None,
    key_file: KeyFileOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the workers as each router sees them."""
    found = _call(find_admins(admin, key_file, name, config), "GET", "/workers")
    if as_json:
        _print_json(found)
        return
    for one in found:
        Console().print(_table(one))


def add(
    worker: Annotated[
        str,
        typer.Argument(
            help="URL[,events=ENDPOINT][,replay=ENDPOINT][,topic=TOPIC][,curve=KEY]"
            "[,tokenizer=off][,eagle=on][,chunk=TOKENS][,key-file=PATH]"
        ),
    ],
    admin: AdminOption = None,
    key_file: KeyFileOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a worker to each router, until that router ends; for longer set its workers_file."""
    from router.discovery.static_worker import parse_static_worker

    new = parse_static_worker(worker)
    body = {
        "url": new.url,
        "events": new.events,
        "replay": new.replay,
        "topic": new.topic or None,
        "curve": new.curve,
        "tokenizer": None if new.tokenizer else "off",
        "eagle": "on" if new.eagle else None,
        "chunk": str(new.chunk_tokens) if new.chunk_tokens else None,
        "key": new.key,
    }
    _do(find_admins(admin, key_file, name, config), "POST", "/workers", body)


def remove(
    worker: WorkerArgument,
    admin: AdminOption = None,
    key_file: KeyFileOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a worker that was given by hand; what runs there may finish."""
    _do(find_admins(admin, key_file, name, config), "DELETE", f"/workers/{quote(worker)}")


def drain(
    worker: WorkerArgument,
    for_s: Annotated[
        float, typer.Option(min=1, max=86_400, help="How long, for one of the registry.")
    ] = 3600.0,
    admin: AdminOption = None,
    key_file: KeyFileOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
) -> None:
    """Send nothing new to a worker; what runs there may finish.

    The controller ends one of its own as soon as it is idle, and starts another in its place.
    """
    path = f"/workers/{quote(worker)}/drain"
    _do(find_admins(admin, key_file, name, config), "POST", path, {"for_s": for_s})


def resume(
    worker: WorkerArgument,
    admin: AdminOption = None,
    key_file: KeyFileOption = None,
    name: NameOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a drain back."""
    path = f"/workers/{quote(worker)}/drain"
    _do(find_admins(admin, key_file, name, config), "DELETE", path)


def _do(admins: list[AdminApi], method: str, path: str, body: object = None) -> None:
    for one in _call(admins, method, path, body):
        typer.echo(f"{one['router']}: {one['worker']} {one['done']}")


def _call(admins: list[AdminApi], method: str, path: str, body: object = None) -> list[Any]:
    """What the routers answered; exits with the status of a failure, after telling all."""
    answers, errors = ask_each(admins, lambda admin: admin.call(method, path, body))
    if errors and not answers:
        raise errors[0]
    for error in errors:
        explain(error)
    return each_router(answers)


def _print_json(found: list[Any]) -> None:
    import json

    typer.echo(json.dumps(found, indent=2))


def _table(answer: dict[str, Any]) -> Table:
    table = Table(title=f"workers of {answer['router']}", title_justify="left")
    for heading in ("worker", "model", "state", "from"):
        table.add_column(heading, no_wrap=heading in ("worker", "state"))
    for heading in ("in flight", "queued tokens", "blocks"):
        table.add_column(heading, justify="right")
    table.add_column("trust")
    table.add_column("detail")
    for one in answer["workers"]:
        colour = _COLOURS.get(one["state"], "red")
        table.add_row(
            one["worker"],
            one["model"] or "",
            f"[{colour}]{one['state']}[/{colour}]",
            one["source"],
            str(one["in_flight"]),
            str(one["queued_tokens"]),
            str(one["index_blocks"]),
            (one["trust"] or "").upper(),
            escape(one["detail"]),
        )
    return table
