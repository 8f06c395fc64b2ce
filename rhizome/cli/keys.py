"""`rhizome keys`: makes keys for clients and operators; only their hashes need to be kept."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from rhizome.errors import SettingsError
from rhizome.ids import hash_of, new_key


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    keys = typer.Typer(help="Make keys for clients and operators.", no_args_is_help=True)
    app.add_typer(keys, name="keys")

    @keys.callback()
    def group() -> None:
        pass

    @keys.command("new")
    def new(
        name: Annotated[str, typer.Argument(help="Whose key it is; logs and metrics say it.")],
    ) -> None:
        """Print a new key, once, and the line that the router needs of it."""
        from router.keys import NAME_PATTERN

        if re.fullmatch(NAME_PATTERN, name) is None:
            raise SettingsError(
                f"{name!r} cannot name a key",
                advice="Use letters, digits and _ . @ - only, 63 at most.",
            )
        key = new_key()
        typer.echo(f"key, shown only now:  {key}")
        typer.echo(f"line for the router:  {name}: {hash_of(key)}")
        typer.echo(
            "\nPut the line into the file of router.keys_file (it is read again when it changes),"
            "\nor under router.keys; for operators under router.admin.keys."
        )
