"""Files and functions stay small enough to be read at once."""

from __future__ import annotations

import ast

from tests.meta.sources import Function, everything, report

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60


def test_no_file_is_too_long() -> None:
    report(
        [
            f"{source.path}: {lines} lines"
            for source in everything()
            if (lines := len(source.text.splitlines())) > FILE_LINES_MAX
        ],
        f"Split these by concept; a file has at most {FILE_LINES_MAX} lines:",
    )


def test_no_function_is_too_long() -> None:
    report(
        [
            f"{source.at(function)}: {function.name} has {lines} lines"
            for source in everything()
            for function in source.functions()
            if (lines := _own_lines(function)) > FUNCTION_LINES_MAX
        ],
        f"Give the steps names; a function has at most {FUNCTION_LINES_MAX} lines:",
    )


def _own_lines(function: Function) -> int:
    """Lines without those of functions inside it (routes, commands), which count by themselves."""
    inner = [one for one in ast.iter_child_nodes(function) if isinstance(one, Function)]
    return _lines(function) - sum(map(_lines, inner))


def _lines(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1
