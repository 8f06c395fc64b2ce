"""The settings as a JSON schema, for the chart and for tools that know nothing of pydantic.

References are resolved in place, every object refuses unknown keys, and each leaf carries its
default and its meaning. Rules between fields (bounds in order, names that differ) are not in it:
only `load_settings` knows them.
"""

from __future__ import annotations

from typing import Any

from rhizome.settings.tree import Settings

Schema = dict[str, Any]

_NOISE = frozenset({"title", "format", "writeOnly"})


def settings_schema(*, secrets: bool = True) -> Schema:
    """The schema of the whole tree; without `secrets`, fields that hold any are unknown keys."""
    whole = Settings.model_json_schema()
    definitions: Schema = whole.pop("$defs", {})
    return _resolve(whole, definitions, secrets=secrets)


def _resolve(schema: Schema, definitions: Schema, *, secrets: bool) -> Schema:
    """`schema` without references: what stands beside a `$ref` overrides what it points to."""
    reference = schema.get("$ref")
    if reference is not None:
        target: Schema = definitions[reference.rsplit("/", 1)[-1]]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **beside}
    resolved: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            resolved[key] = {
                name: _resolve(field, definitions, secrets=secrets)
                for name, field in value.items()
                if secrets or not _is_secret(field)
            }
        elif key == "anyOf":
            resolved[key] = [_resolve(one, definitions, secrets=secrets) for one in value]
        elif key == "items":
            resolved[key] = _resolve(value, definitions, secrets=secrets)
        elif key not in _NOISE:
            resolved[key] = value
    if "properties" in resolved:
        resolved.pop("default", None)  # each leaf says its own
    return resolved


def _is_secret(field: Schema) -> bool:
    inner = [field, *field.get("anyOf", [])]
    inner += [one["items"] for one in inner if isinstance(one.get("items"), dict)]
    return any(one.get("writeOnly", False) for one in inner)
