"""Writes the parts of the chart that follow from elsewhere: `python -m tests.unit.helm.generate`.

The schema of `settings` in values.schema.json comes from the typed settings, the tables of the
chart's README from values.schema.json and values.yaml. A test fails while the files are stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rhizome.settings.schema import settings_schema
from tests.unit.helm.chart import CHART_DIRECTORY, default_values

SCHEMA_FILE = CHART_DIRECTORY / "values.schema.json"
README_FILE = CHART_DIRECTORY / "README.md"

Schema = dict[str, Any]
_ABSENT = object()
_LISTS_OF_OBJECTS = ("settings.models", "ray.workerGroups")
_IN_KUBERNETES_TERMS = ("resources", "affinity")


def read_schema() -> Schema:
    schema: Schema = json.loads(SCHEMA_FILE.read_text())
    return schema


def schema_text() -> str:
    """values.schema.json as it should be."""
    schema = read_schema()
    schema["properties"]["settings"] = settings_schema(secrets=False)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def readme_text() -> str:
    """README.md as it should be: what stands between the markers is replaced."""
    text = README_FILE.read_text()
    leaves = list(values_leaves(json.loads(schema_text())))
    of_settings = [leaf for leaf in leaves if leaf[0].startswith("settings.")]
    of_chart = [leaf for leaf in leaves if not leaf[0].startswith("settings.")]
    for name, table in (("values", of_chart), ("settings", of_settings)):
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->\n"
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = before + begin + _table(table) + end + after
    return text


def values_leaves(schema: Schema) -> Iterator[tuple[str, Schema, Any]]:
    """Every value that can be set: its path, its schema and the chart's default for it."""
    yield from _leaves("", schema, default_values(), schema["$defs"])


def resolve(schema: Schema, definitions: Schema) -> Schema:
    """What a `$ref` points to, below what stands beside it."""
    if "$ref" not in schema:
        return schema
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    return {**definitions[schema["$ref"].rsplit("/", 1)[-1]], **beside}


def _leaves(
    path: str, schema: Schema, default: Any, definitions: Schema
) -> Iterator[tuple[str, Schema, Any]]:
    schema = resolve(schema, definitions)
    fields = _fields(schema)
    if path in _LISTS_OF_OBJECTS:
        yield path, schema, default
        path, default = f"{path}[]", _ABSENT
        fields = _fields(resolve(schema["items"], definitions))
    elif not fields or path.rsplit(".", 1)[-1] in _IN_KUBERNETES_TERMS:
        yield path, schema, schema.get("default", _ABSENT) if default is _ABSENT else default
        return
    for name, field in fields.items():
        value = default.get(name, _ABSENT) if isinstance(default, dict) else _ABSENT
        yield from _leaves(f"{path}.{name}".lstrip("."), field, value, definitions)


def _fields(schema: Schema) -> Schema:
    """The fields of an object, or of the object that may also be null."""
    options = [schema, *schema.get("anyOf", [])]
    return next((option["properties"] for option in options if "properties" in option), {})


def _table(leaves: list[tuple[str, Schema, Any]]) -> str:
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for path, schema, default in leaves:
        shown = "" if default is _ABSENT else f"`{json.dumps(default)}`"
        rows.append(f"| `{path}` | {shown} | {_meaning(schema)} |")
    return "\n".join(rows) + "\n"


def _meaning(schema: Schema) -> str:
    meaning = str(schema.get("description", "")).replace("|", "\\|").replace("\n", " ")
    if "enum" in schema:
        meaning += " One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + "."
    return meaning


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text())
    README_FILE.write_text(readme_text())
