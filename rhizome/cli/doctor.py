"""`rhizome doctor`: what would fail on this machine, before it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rhizome.settings.load import load_settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("doctor")
    def doctor(
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
        name: Annotated[str | None, typer.Option(help="A local cluster's name.")] = None,
        port: Annotated[int | None, typer.Option(help="The API port you mean to use.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """Check versions, ports, memory, disk and keys; exits with 1 when something would fail."""
        import msgspec

        from cluster.local.checkup import Verdict, check_up

        findings = check_up(load_settings(config, flags={"name": name, "router.port": port}))
        if as_json:
            typer.echo(msgspec.json.format(msgspec.json.encode(findings), indent=2).decode())
        else:
            table = Table("what", "", "found", "advice", box=None, padding=(0, 2, 0, 0))
            colours = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}
            for one in findings:
                verdict = f"[{colours[one.verdict]}]{one.verdict.value}[/]"
                table.add_row(one.what, verdict, one.found, one.advice)
            Console().print(table)
        if any(one.verdict is Verdict.FAIL for one in findings):
            raise typer.Exit(1)
