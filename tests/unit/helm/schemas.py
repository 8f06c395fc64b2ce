"""Says whether a manifest is what an API server would take, field by field.

Kinds of Kubernetes are checked with the schemas of a given minor version; custom resources with
their definition's structural schema, read as JSON schema. Unknown fields are errors in both: a real
server would drop them in silence. CEL rules are not evaluated.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.unit.helm.chart import Manifest

MINORS = ("1.33", "1.34", "1.35", "1.36")
_DEFINITIONS = Path(__file__).parent / "data" / "crds"
_GROUPS = {
    "ray.io/v1": "ray.io_rayclusters.yaml.gz",
    "monitoring.coreos.com/v1": "monitoring.coreos.com_servicemonitors.yaml.gz",
}

Schema = dict[str, Any]


def faults(manifest: Manifest, minor: str) -> list[str]:
    """What is wrong with it, as `path: message`; empty: nothing."""
    return list(_faults(json.dumps(manifest, sort_keys=True), minor))


@cache
def _faults(text: str, minor: str) -> tuple[str, ...]:
    manifest = json.loads(text)
    if manifest["apiVersion"] in _GROUPS:
        validator = _custom_validator(manifest["apiVersion"], manifest["kind"])
        return tuple(
            f"{error.json_path}: {error.message[:160]}" for error in validator.iter_errors(manifest)
        )
    try:
        kubernetes_validate.validate(manifest, minor, strict=True)
    except kubernetes_validate.ValidationError as error:
        return (f"{'.'.join(map(str, error.path))}: {error.message[:160]}",)
    return ()


@cache
def _custom_validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    text = gzip.decompress((_DEFINITIONS / _GROUPS[api_version]).read_bytes())
    definition = yaml.load(text, Loader=yaml.CSafeLoader)
    assert definition["spec"]["names"]["kind"] == kind
    (version,) = (
        one for one in definition["spec"]["versions"] if one["name"] == api_version.split("/")[1]
    )
    structural: Schema = version["schema"]["openAPIV3Schema"]
    structural["properties"]["metadata"] = {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
    }
    return jsonschema.Draft202012Validator(json_schema(structural))


def json_schema(structural: Schema, *, strict: bool = True) -> Schema:
    """A structural schema as JSON schema; `strict` refuses fields that it does not name.

    Value validations (`allOf` and the like) only narrow what stands beside them, so they stay
    open. See Kubernetes' "Specifying a structural schema".
    """
    schema = {key: value for key, value in structural.items() if not key.startswith("x-")}
    for key in ("properties", "patternProperties"):
        if key in schema:
            schema[key] = {
                name: json_schema(one, strict=strict) for name, one in schema[key].items()
            }
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            schema[key] = json_schema(schema[key], strict=strict and key != "not")
    for key in ("allOf", "anyOf", "oneOf"):
        if key in schema:
            schema[key] = [json_schema(one, strict=False) for one in schema[key]]
    if structural.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if strict and _is_closed(structural):
        schema["additionalProperties"] = False
    if schema.pop("nullable", False) and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return schema


def _is_closed(structural: Schema) -> bool:
    return (
        "properties" in structural
        and "additionalProperties" not in structural
        and not structural.get("x-kubernetes-preserve-unknown-fields")
    )
