"""`rhizome explain`: why a request went where it went, or where one would go now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from rhizome.cli.admin import (
    AdminApi,
    AdminOption,
    ConfigOption,
    JsonOption,
    KeyFileOption,
    NameOption,
    NotThere,
    ask_each,
    each_router,
    find_admins,
)
from rhizome.errors import ClusterError, SettingsError, StartError


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("explain")
    def explain(
        request_id: Annotated[
            str | None,
            typer.Argument(help="The answer's x-request-id; without it the latest are listed."),
        ] = None,
        dry_run: Annotated[
            Path | None,
            typer.Option(help="File with a request's body (JSON): where would it go now?"),
        ] = None,
        path: Annotated[
            str, typer.Option(help="With --dry-run: where the body would be posted.")
        ] = "/v1/chat/completions",
        limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")] = 20,
        as_json: JsonOption = False,
        admin: AdminOption = None,
        key_file: KeyFileOption = None,
        name: NameOption = None,
        config: ConfigOption = None,
    ) -> None:
        """Explain a request: its candidates, the choice and its reason, and what came of it."""
        admins = find_admins(admin, key_file, name, config)
        if dry_run is not None:
            body = {"path": path, "body": _read_body(dry_run)}
            found = _any_of(admins, "POST", "/route", body)
        elif request_id is not None:
            found = _any_of(admins, "GET", f"/decisions/{quote(request_id, safe='')}")
        else:
            found = _any_of(admins, "GET", f"/decisions?limit={limit}")
        if as_json:
            typer.echo(json.dumps(found[0] if len(found) == 1 else found, indent=2))
            return
        _print(found)


def _any_of(admins: list[AdminApi], method: str, path: str, body: object = None) -> list[Any]:
    """What those routers answered that know of it; raises what the first other one said."""
    answers, errors = ask_each(admins, lambda admin: admin.call(method, path, body))
    if not answers:
        worst = [error for error in errors if not isinstance(error, NotThere)] or errors
        raise _all_said(worst)
    return each_router(answers)


def _all_said(errors: list[StartError]) -> StartError:
    if len(errors) == 1:
        return errors[0]
    return ClusterError("; ".join(error.message for error in errors), advice=errors[0].advice)


def _read_body(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read a request's body from {file}: {error}") from error
    if not isinstance(body, dict):
        raise SettingsError(f"{file} must hold a JSON object, the body of a request")
    return body


def _print(found: list[Any]) -> None:
    from rich.console import Console

    from rhizome.cli.decision_tables import print_decision, print_decisions
    from router.decisions.views import DecisionList, DecisionView

    console = Console()
    for one in found:
        if "decisions" in one:
            print_decisions(DecisionList.model_validate(one), console)
        else:
            print_decision(DecisionView.model_validate(one), console)
