"""Instances of JSON schemas, drawn from a seeded source.

Looked at: types, `enum`, `const`, `$ref` within the schema, `anyOf`, `oneOf`, `allOf`, the bounds
of numbers, texts, arrays and objects, `pattern` and the formats that vLLM knows. Ignored: `not`,
`if`, and what depends on other properties.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers.engine.simulated.asked.formats import FORMATS
from workers.engine.simulated.asked.merging import merged
from workers.engine.simulated.asked.patterns import PatternFault, matching

Schema = Any
_DEEP = 5
"""From here on only what is required is said."""
_DEPTH_MAX = 48
_ATTEMPTS = 60
_SPAN = 100
_OF_KIND = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("pattern", "format", "minLength", "maxLength"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class SchemaFault(ValueError):
    """The schema is broken, or nothing satisfies it."""


class Instances:
    """Values that satisfy one schema."""

    def __init__(self, schema: Schema, rng: random.Random, words: Sequence[str]) -> None:
        """`words` is what texts are made of."""
        self._root = schema
        self._rng = rng
        self._words = words
        self._kinds: dict[str, Callable[[Mapping[str, Any], int], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": lambda schema, _: self._number(schema, whole=True),
            "number": lambda schema, _: self._number(schema, whole=False),
            "boolean": lambda _schema, _depth: rng.random() < 0.5,
            "null": lambda _schema, _depth: None,
        }
        self._keywords: dict[str, Callable[[Any, Schema, int], Any]] = {
            "$ref": lambda name, rest, depth: self._value(
                merged(self._resolved(name), rest), depth + 1
            ),
            "const": lambda value, _rest, _depth: value,
            "allOf": lambda parts, rest, depth: self._value(self._all_of(rest, parts), depth + 1),
            "anyOf": self._any_of,
            "oneOf": self._any_of,
            "enum": self._enum,
        }

    def value(self) -> Any:
        """Some value; raises `SchemaFault`."""
        try:
            return self._value(self._root, 0)
        except (TypeError, AttributeError, LookupError, ArithmeticError) as error:
            # A keyword's value is of another type than the keyword wants.
            raise SchemaFault(f"the schema is broken: {error}") from error

    def _value(self, schema: Schema, depth: int) -> Any:
        if depth > _DEPTH_MAX:
            raise SchemaFault("the schema is nested too deeply, or has no end")
        if schema is False:
            raise SchemaFault("Unsatisfiable schema: schema is false")
        if schema is True:
            return self._word()
        if not isinstance(schema, dict):
            raise SchemaFault("Expecting object schema to apply options")
        for keyword, answer in self._keywords.items():
            if keyword in schema:
                rest = {name: value for name, value in schema.items() if name != keyword}
                return answer(schema[keyword], rest, depth)
        return self._kinds[self._kind(schema)](schema, depth)

    def _enum(self, values: Sequence[Any], _rest: Schema, _depth: int) -> Any:
        if not values:
            raise SchemaFault("Unsatisfiable schema: anyOf is empty")
        return self._rng.choice(values)

    def _kind(self, schema: Mapping[str, Any]) -> str:
        given = schema.get("type")
        if given is None:
            found = [
                kind for kind, names in _OF_KIND.items() if any(one in schema for one in names)
            ]
            return found[0] if found else "string"
        kinds = [given] if isinstance(given, str) else given
        if not isinstance(kinds, list) or not all(isinstance(one, str) for one in kinds):
            raise SchemaFault("type must be a string or array of strings")
        for kind in kinds:
            if kind not in self._kinds:
                raise SchemaFault(f"Invalid type: {kind}")
        if not kinds:
            raise SchemaFault("Unsatisfiable schema: incompatible types")
        return str(self._rng.choice([kind for kind in kinds if kind != "null"] or kinds))

    def _resolved(self, pointer: Any) -> Schema:
        found, place = self._root, str(pointer)
        if place == "#":
            return found
        if not place.startswith("#/"):
            return True
        for part in place[2:].split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            inner = found[int(name)] if isinstance(found, list) and name.isdigit() else found
            found = inner.get(name) if isinstance(inner, dict) and inner is found else inner
            if found is None:
                raise SchemaFault(f"Pointer '{place[1:]}' does not exist")
        return found

    def _all_of(self, rest: Schema, parts: Sequence[Schema]) -> Schema:
        whole = rest
        for part in parts:
            whole = merged(whole, self._unfolded(part))
        return whole

    def _unfolded(self, schema: Schema) -> Schema:
        """The schema without a `$ref` at its top."""
        for _ in range(_DEPTH_MAX):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = merged(self._resolved(schema["$ref"]), rest)
        raise SchemaFault("a reference leads back to itself")

    def _any_of(self, given: Sequence[Schema], rest: Schema, depth: int) -> Any:
        options = list(given)
        self._rng.shuffle(options)
        if depth >= _DEEP:
            options.sort(key=lambda one: isinstance(one, dict) and not {"enum", "const"} & set(one))
            options.sort(key=lambda one: isinstance(one, dict) and "$ref" in one)
        fault = SchemaFault("Unsatisfiable schema: anyOf is empty")
        for option in options:
            try:
                return self._value(merged(option, rest), depth + 1)
            except SchemaFault as error:
                fault = error
        raise fault

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise SchemaFault("properties must be an object")
        required = [*schema.get("required", ())]
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", math.inf)
        wanted = set(required)
        for name in properties:
            few = len(wanted) < least
            if few or (depth < _DEEP and len(wanted) < most and self._rng.random() < 0.5):
                wanted.add(name)
        found: dict[str, Any] = {}
        for name, inner in properties.items():
            if name in wanted:
                try:
                    found[name] = self._value(inner, depth + 1)
                except SchemaFault:
                    if name in required or len(wanted) <= least:
                        raise
        others = schema.get("additionalProperties", True)
        for name in required:
            if name not in found:
                found[name] = self._value(others, depth + 1)
        return self._filled(schema, found, least, depth)

    def _filled(
        self, schema: Mapping[str, Any], found: dict[str, Any], least: int, depth: int
    ) -> dict[str, Any]:
        """The object with properties of any name, as many as it takes."""
        named = schema.get("patternProperties") or {}
        pattern, inner = next(iter(named.items()), (None, schema.get("additionalProperties", True)))
        if not schema.get("properties") and not least and depth < _DEEP:
            least = 1 if isinstance(inner, dict) else 0
        for _ in range(_ATTEMPTS * max(1, least)):
            if len(found) >= least:
                return found
            name = self._word() if pattern is None else self._match(pattern)
            found[name] = self._value(inner, depth + 1)
        raise SchemaFault("Unsatisfiable schema: minProperties cannot be reached")

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if least > most:
            raise SchemaFault(
                f"Unsatisfiable schema: minItems ({least}) is greater than maxItems ({most})"
            )
        first, others = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(others, list):
            first, others = others, schema.get("additionalItems", True)
        more = 0 if depth >= _DEEP else self._rng.randint(0 if least else 1, 2)
        count = min(max(least + more, len(first)), most)
        if others is False:
            count = min(count, len(first))
        found: list[Any] = []
        for _ in range(_ATTEMPTS * max(1, int(count))):
            if len(found) >= count:
                break
            inner = first[len(found)] if len(found) < len(first) else others
            one = self._value(inner, depth + 1)
            if not (schema.get("uniqueItems") and one in found):
                found.append(one)
        if len(found) < least:
            raise SchemaFault("Unsatisfiable schema: minItems cannot be reached")
        return found

    def _string(self, schema: Mapping[str, Any], depth: int) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength", math.inf)
        if least > most:
            raise SchemaFault(
                f"Unsatisfiable schema: minLength ({least}) is greater than maxLength ({most})"
            )
        make = self._text_source(schema)
        if make is not None:
            for _ in range(_ATTEMPTS):
                text = make()
                if least <= len(text) <= most:
                    return text
            raise SchemaFault("Unsatisfiable schema: no text of that length matches")
        text = " ".join(self._word() for _ in range(self._rng.randint(1, 4)))
        while len(text) < least:
            text += " " + self._word()
        return text if len(text) <= most else text[: int(most)]

    def _text_source(self, schema: Mapping[str, Any]) -> Callable[[], str] | None:
        pattern, kind = schema.get("pattern"), schema.get("format")
        if pattern is not None:
            return lambda: self._match(str(pattern))
        if kind is None:
            return None
        if kind not in FORMATS:
            raise SchemaFault(f"Unknown format: {kind}")
        return lambda: self._match(FORMATS[kind])

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low, high = self._range(schema)
        step = schema.get("multipleOf", 1 if whole else None)
        if step is not None:
            if not step > 0:
                raise SchemaFault("invalid multiple of")
            first, last = math.ceil(low / step), math.floor(high / step)
            first += first * step <= low and _excludes(schema, "exclusiveMinimum", low)
            last -= last * step >= high and _excludes(schema, "exclusiveMaximum", high)
            if first > last:
                raise SchemaFault(
                    f"Unsatisfiable schema: range [{low}, {high}] does not contain a multiple"
                )
            found = self._rng.randint(first, last) * step
            return int(found) if whole else float(f"{found:.12g}")
        found = round(self._rng.uniform(low, high), 2)
        return found if low < found < high else (low + high) / 2

    def _range(self, schema: Mapping[str, Any]) -> tuple[float, float]:
        lows = [schema[one] for one in ("minimum", "exclusiveMinimum") if _counts(schema, one)]
        highs = [schema[one] for one in ("maximum", "exclusiveMaximum") if _counts(schema, one)]
        low = max(lows, default=(min(highs) - _SPAN if highs and min(highs) <= 0 else 0))
        high = min(highs, default=low + _SPAN * max(1, schema.get("multipleOf", 1)))
        if low > high:
            raise SchemaFault(
                f"Unsatisfiable schema: minimum ({low}) is greater than maximum ({high})"
            )
        return low, high

    def _match(self, pattern: str) -> str:
        try:
            return matching(pattern, self._rng)
        except PatternFault as fault:
            raise SchemaFault(f"regex parse error: {fault}") from fault

    def _word(self) -> str:
        return self._rng.choice(self._words)


def _counts(schema: Mapping[str, Any], name: str) -> bool:
    value = schema.get(name)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _excludes(schema: Mapping[str, Any], name: str, bound: float) -> bool:
    """Whether the bound itself is out."""
    return schema.get(name) is True or (_counts(schema, name) and schema[name] == bound)
