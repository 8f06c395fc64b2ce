from __future__ import annotations

import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.engine.simulated.asked.schemas import Instances, SchemaFault

WORDS = ["river", "sea", "stone"]
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "children", "next"],
        }
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 20},
        "age": {"type": "integer", "minimum": 18, "exclusiveMaximum": 21},
        "weight": {"type": "number", "exclusiveMinimum": 1, "maximum": 2.5},
        "email": {"type": "string", "format": "email"},
        "plate": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "tags": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 2},
        "pair": {"type": "array", "prefixItems": [{"const": "x"}, {"type": "boolean"}]},
        "step": {"type": "number", "multipleOf": 0.5},
        "nothing": {"type": ["null", "string"]},
    },
    "required": ["name", "age", "email", "tags", "plate"],
    "additionalProperties": False,
}
OTHERS: list[Any] = [
    {},
    True,
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    {"type": "object", "patternProperties": {"^k[0-9]$": {"type": "null"}}, "minProperties": 1},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"const": 1}}}]},
    {"allOf": [{"minimum": 3}, {"type": "integer", "maximum": 4}]},
    {"oneOf": [{"type": "string"}, {"type": "integer", "exclusiveMaximum": 0}]},
    {"properties": {"a": {"type": "boolean"}}, "required": ["a", "b"]},
    {"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"enum": ["q"]}}},
    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
    {"type": "integer", "multipleOf": 7, "minimum": 8, "maximum": 15},
]


@pytest.mark.parametrize("schema", [PERSON, TREE, *OTHERS], ids=str)
@given(seed=st.integers(0, 2**32))
def test_instances_satisfy_their_schema(schema: Any, seed: int) -> None:
    value = Instances(schema, random.Random(seed), WORDS).value()
    jsonschema.Draft202012Validator(schema).validate(value)


def test_the_same_seed_gives_the_same_instance() -> None:
    values = [Instances(PERSON, random.Random(7), WORDS).value() for _ in range(2)]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "nothing"},
        {"type": 5},
        {"enum": []},
        {"anyOf": []},
        {"properties": 5},
        {"$ref": "#/$defs/x"},
        {"$ref": "#"},
        {"type": "integer", "minimum": 5, "maximum": 3},
        {"type": "integer", "multipleOf": 0},
        {"type": "integer", "multipleOf": 7, "minimum": 8, "maximum": 13},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "^a$", "minLength": 2},
        {"type": "string", "format": "nope"},
        {"type": "array", "minItems": 3, "maxItems": 2},
        {"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
    ],
    ids=str,
)
def test_what_nothing_satisfies_is_a_fault(schema: Any) -> None:
    with pytest.raises(SchemaFault):
        Instances(schema, random.Random(0), WORDS).value()
