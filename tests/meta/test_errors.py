"""The error tree: drawn as it is, with codes that tell the classes apart."""

from __future__ import annotations

import re
from collections import Counter
from typing import TypeVar

import pytest

from rhizome import errors
from rhizome.errors import RequestError, RhizomeError, StartError

LINE = re.compile(
    r"(?P<indent>(?:[│ ] {3})*)(?:[├└]── )?(?P<name>\w+)"
    r"(?: +(?P<exit>exit )?(?P<number>\d+)\b.*| +.*)?\Z"
)


E = TypeVar("E", bound=RhizomeError)


def subclasses(kind: type[E]) -> list[type[E]]:
    """All of rhizome.errors below `kind`; other modules may derive their own."""
    below = [one for one in kind.__subclasses__() if one.__module__ == errors.__name__]
    return [each for one in below for each in (one, *subclasses(one))]


REQUEST_ERRORS = subclasses(RequestError)
START_ERRORS = subclasses(StartError)


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """Name to parent and number (status or exit code), from the drawing in the docstring."""
    tree: dict[str, tuple[str | None, int | None]] = {}
    path: list[str] = []
    text = errors.__doc__ or ""
    for line in text[text.index("RhizomeError\n") :].split("\n\n")[0].splitlines():
        found = LINE.match(line)
        assert found, f"cannot read this line of the drawing: {line!r}"
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        path[depth:] = [found["name"]]
        number = int(found["number"]) if found["number"] else None
        tree[found["name"]] = (path[depth - 1] if depth else None, number)
    return tree


def test_the_drawing_shows_every_class_below_its_parent() -> None:
    real = {one.__name__: one.__bases__[0].__name__ for one in subclasses(RhizomeError)}
    shown = {name: parent for name, (parent, _) in drawn().items() if parent}
    assert shown == real, "redraw the tree at the top of rhizome/errors.py"


def test_the_drawing_shows_every_status_and_exit_code() -> None:
    shown = {name: number for name, (_, number) in drawn().items() if number is not None}
    real = {one.__name__: one.status for one in REQUEST_ERRORS}
    real |= {one.__name__: one.exit_code for one in START_ERRORS}
    assert shown == real, "correct the numbers at the top of rhizome/errors.py"


def test_codes_are_stable_snake_case_and_unique() -> None:
    codes = Counter(one.code for one in REQUEST_ERRORS)
    double = [code for code, count in codes.items() if count > 1]
    assert not double, f"two error classes share a code: {double}"
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_exit_codes_are_unique_and_not_those_of_the_shell() -> None:
    codes = Counter(one.exit_code for one in START_ERRORS)
    assert set(codes.values()) == {1}
    assert all(1 < code < 64 for code in codes)


@pytest.mark.parametrize("kind", [RequestError, *REQUEST_ERRORS])
def test_a_request_error_has_the_shape_of_openais(kind: type[RequestError]) -> None:
    error = kind("what happened", param="model")
    assert error.body() == {
        "error": {
            "message": "what happened",
            "type": kind.kind,
            "param": "model",
            "code": kind.code,
        }
    }
    assert 400 <= kind.status < 600
    assert (kind.kind == "server_error") == (kind.status >= 499)
