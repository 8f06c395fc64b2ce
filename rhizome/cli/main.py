"""The `rhizome` command: one module a subcommand, errors told once, at this border.

Subcommands import what is heavy inside themselves: a router image has neither Ray nor an engine.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rhizome import __version__
from rhizome.cli import (
    batch,
    calibrate,
    chat,
    config,
    controller,
    doctor,
    down,
    explain,
    keys,
    loadtest,
    router,
    scale,
    simulate,
    simulated_workers,
    status,
    up,
    worker,
    workers,
)
from rhizome.cli.errors import explain as tell
from rhizome.errors import StartError

_INTERRUPTED = 130
_COMMANDS = (
    up,
    down,
    status,
    chat,
    explain,
    workers,
    keys,
    scale,
    doctor,
    config,
    router,
    worker,
    controller,
    batch,
    calibrate,
    loadtest,
    simulate,
    simulated_workers,
)


def application() -> typer.Typer:
    """The command with all its subcommands."""
    app = typer.Typer(
        name="rhizome",
        help="A serving cluster for large language models.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        _version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version and exit.", is_eager=True, callback=_tell
            ),
        ] = False,
    ) -> None:
        pass

    for command in _COMMANDS:
        command.register(app)
    return app


def _tell(version: bool) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point; the exit status of a `StartError` is its class's."""
    try:
        application()(standalone_mode=True)
    except StartError as error:
        sys.exit(tell(error))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
