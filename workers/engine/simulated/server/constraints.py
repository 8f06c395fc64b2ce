"""What an answer is bound to: `structured_outputs` and `response_format` as vLLM 0.32 reads them.

A constraint becomes a text that satisfies it, drawn from a seed; the engine then says that text.
Grammars and structural tags are not simulated.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from workers.engine.simulated.asked.patterns import PatternFault, matching
from workers.engine.simulated.asked.schemas import Instances, SchemaFault
from workers.engine.simulated.server.refusals import Refusal, contradiction, not_simulated

_OBJECT = {
    "type": "object",
    "minProperties": 2,
    "additionalProperties": {"type": ["string", "integer"]},
}
"""What a model might say that was only asked for some object."""
_NESTING_MAX = 64
_SHOWN = (
    *("json", "regex", "choice", "grammar", "json_object", "disable_any_whitespace"),
    *("disable_additional_properties", "whitespace_pattern", "structural_tag"),
)


class JsonSchemaFormat(BaseModel):
    """`response_format.json_schema`."""

    name: str
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """`response_format` but for structural tags."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuralTagFormat(BaseModel):
    """A structural tag."""

    type: Literal["structural_tag"]
    format: Any


class LegacyTagFormat(BaseModel):
    """A structural tag as it used to be written."""

    type: Literal["structural_tag"]
    structures: list[dict[str, Any]]
    triggers: list[str]


AnyFormat = ResponseFormat | StructuralTagFormat | LegacyTagFormat


class StructuredOutputs(BaseModel):
    """`structured_outputs`: one of these, and what is done about blanks."""

    json_schema: str | dict[str, Any] | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    @model_validator(mode="after")
    def _check(self) -> StructuredOutputs:
        self.check_one()
        return self

    def check_one(self) -> None:
        """Raises `Refusal` unless there is one constraint."""
        kinds = (self.json_schema, self.regex, self.choice, self.grammar)
        given = sum(one is not None for one in (*kinds, self.json_object, self.structural_tag))
        if given != 1:
            fault = "You must use one kind" if not given else "You can only use one kind"
            found = "none" if not given else "multiple"
            shown = self.model_dump(by_alias=True)
            words = {name: shown[name] for name in _SHOWN}
            raise Refusal(
                f"{fault} of structured outputs constraint but {found} are specified: "
                f"{words | {'_backend': None, '_backend_was_auto': False}}"
            )


def check_formats(fields: dict[str, Any], *, named: str | None = None) -> None:
    """What is looked at before the types of fields; `named` is the field that refusals name."""
    given = fields.get("structured_outputs")
    if given is not None:
        if not isinstance(given, dict):
            words = f"{type(given).__name__!r} object has no attribute 'get'"
            raise Refusal(words, status=500, kind="InternalServerError")
        if sum(given.get(one) is not None for one in ("json", "regex", "choice")) > 1:
            words = (
                "You can only use one kind of constraints for structured outputs "
                "('json', 'regex' or 'choice')."
            )
            raise contradiction(words, named) if named else Refusal(words)
        if named is None:
            _check_beside_tool(fields, given)
    wanted = fields.get("response_format")
    schema_asked = (wanted.get("type") == "json_schema") if isinstance(wanted, dict) else False
    if schema_asked and fields["response_format"].get("json_schema") is None:
        words = "the 'json_schema' field must be provided."
        raise contradiction(
            f"When response_format type is 'json_schema', {words}", "response_format"
        )


def _check_beside_tool(fields: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """What is called by name binds what is said already."""
    choice = fields.get("tool_choice", "none")
    bound = any(given.get(one) is not None for one in ("json", "regex", "choice"))
    if bound and choice not in ("none", "auto", "required"):
        words = "You can only either use constraints for structured outputs or tools, not both."
        raise Refusal(words)


def effective(
    structured: StructuredOutputs | None, wanted: AnyFormat | None
) -> StructuredOutputs | None:
    """The one constraint of a request, None for none; raises `Refusal` for several."""
    if wanted is None or wanted.type == "text":
        return structured
    if not isinstance(wanted, ResponseFormat):
        raise not_simulated("response_format")
    found = (structured or StructuredOutputs.model_construct()).model_copy()
    if wanted.type == "json_object":
        found.json_object = True
    else:
        found.json_schema = wanted.json_schema.json_schema if wanted.json_schema else None
    found.check_one()
    return found


def satisfying(asked: StructuredOutputs, rng: random.Random, words: list[str]) -> str:
    """A text that keeps to what is asked; raises `Refusal` where there is none."""
    if asked.choice is not None:
        if not asked.choice:
            raise Refusal("Choice '[]' cannot be an empty list")
        return rng.choice(asked.choice)
    if asked.regex is not None:
        if "\x00" in asked.regex:
            raise Refusal("structured_outputs.regex must not contain a NUL character ('\\x00')")
        try:
            return matching(asked.regex, rng)
        except PatternFault as fault:
            raise Refusal(f"Grammar error: {fault}") from fault
    if asked.json_object is False:
        raise Refusal(
            "structured_outputs.json_object must be True if set; omit structured_outputs to "
            "disable structured outputs"
        )
    if asked.json_object is None and asked.json_schema is None:
        if not (asked.grammar or asked.structural_tag or "").strip():
            kind = "grammar" if asked.structural_tag is None else "structural_tag"
            raise Refusal(f"structured_outputs.{kind} cannot be an empty string")
        raise not_simulated("structured_outputs")
    schema = _OBJECT if asked.json_schema is None else _schema(asked.json_schema)
    try:
        value = Instances(schema, rng, words).value()
    except SchemaFault as fault:
        raise Refusal(f"Grammar error: {fault}") from fault
    return json.dumps(value, ensure_ascii=False)


def _schema(given: str | dict[str, Any]) -> Any:
    schema: Any = given
    if isinstance(given, str):
        if not given.strip():
            raise Refusal("structured_outputs.json cannot be an empty string")
        try:
            schema = json.loads(given)
        except ValueError as error:
            raise Refusal("Invalid JSON grammar specification.") from error
    if _nested(schema, _NESTING_MAX):
        raise Refusal(
            "The JSON schema is nested too deeply: objects and arrays may nest at most "
            f"{_NESTING_MAX} levels"
        )
    return schema


def _nested(schema: Any, limit: int) -> bool:
    """Whether objects and arrays nest deeper than `limit`."""
    level = [schema] if isinstance(schema, dict | list) else []
    for _ in range(limit):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for values in inner for one in values if isinstance(one, dict | list)]
        if not level:
            return False
    return True
