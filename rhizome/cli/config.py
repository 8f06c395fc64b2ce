"""`rhizome config`: the merged settings, or what can be set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from rhizome.settings.dump import settings_yaml
from rhizome.settings.load import load_settings
from rhizome.settings.schema import settings_schema


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("config")
    def config(
        file: Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")] = None,
        schema: Annotated[
            bool, typer.Option("--schema", help="Every setting with type, default and meaning.")
        ] = False,
        json_schema: Annotated[
            bool, typer.Option("--json-schema", help="The same as a JSON schema.")
        ] = False,
    ) -> None:
        """Print the settings as they are merged, secrets masked."""
        if json_schema:
            typer.echo(json.dumps(settings_schema(), indent=2))
        elif schema:
            for line in describe_settings(settings_schema()):
                typer.echo(line)
        else:
            typer.echo(settings_yaml(load_settings(file)), nl=False)


def describe_settings(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Two lines a setting: path, type and default; then its meaning."""
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}" if path else name
        if "properties" in field:
            yield from describe_settings(field, below)
            continue
        default = f" = {json.dumps(field['default'])}" if "default" in field else ""
        yield f"{below}: {type_in_words(field)}{default}"
        meaning = field.get("description", "")
        if meaning:
            yield f"    {meaning}"
        if field.get("type") == "array" and "properties" in field.get("items", {}):
            yield from describe_settings(field["items"], f"{below}[]")


def type_in_words(field: dict[str, Any]) -> str:
    """The type of a field of the JSON schema with its bounds, e.g. `integer 0..65535`."""
    if "anyOf" in field:
        return " or ".join(type_in_words(one) for one in field["anyOf"])
    if "enum" in field:
        return "|".join(str(value) for value in field["enum"])
    if field.get("type") == "array" and "items" in field:
        return f"list of {type_in_words(field['items'])}"
    words = str(field.get("type", "any"))
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    if low is None and high is None:
        return words
    return f"{words} {'' if low is None else low}..{'' if high is None else high}"
