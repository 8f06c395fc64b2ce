"""The JSON schema says of the settings what the typed tree says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
from pydantic import BaseModel

from rhizome.settings.schema import settings_schema
from rhizome.settings.tree import Settings

Schema = dict[str, Any]


def fields(model: type[BaseModel], path: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{path}.{name}")
        else:
            found.add(f"{path}.{name}")
    return found


def schema_fields(schema: Schema, path: str = "") -> set[str]:
    if "properties" not in schema:
        return {path}
    return {
        found
        for name, below in schema["properties"].items()
        for found in schema_fields(below, f"{path}.{name}")
    }


def test_the_schema_has_every_field_of_the_settings_and_no_other() -> None:
    assert schema_fields(settings_schema()) == fields(Settings)


def test_fields_that_hold_secrets_are_unknown_to_the_chart() -> None:
    hidden = schema_fields(settings_schema()) - schema_fields(settings_schema(secrets=False))
    assert hidden == {".redis.url", ".router.api_keys", ".batch.api_key", ".router.admin.key"}


def test_the_schema_has_no_reference_left_and_every_object_is_closed() -> None:
    def check(schema: Any, path: str) -> None:
        if isinstance(schema, list):
            for one in schema:
                check(one, path)
        if not isinstance(schema, dict):
            return
        assert "$ref" not in schema
        names_are_free = path.endswith(("engine_args", "keys"))
        if schema.get("type") == "object" and not names_are_free:
            assert schema["additionalProperties"] is False, path
        for key, below in schema.items():
            check(below, f"{path}.{key}")

    check(settings_schema(), "")


def test_the_schema_takes_the_defaults_of_the_settings() -> None:
    defaults = json.loads(Settings().model_dump_json())
    jsonschema.Draft202012Validator(settings_schema()).validate(defaults)
