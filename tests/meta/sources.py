"""The project's own files, parsed once: what the tests of this folder look at."""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rhizome", "router", "workers", "cluster", "loadtest")
PURE = (
    "router/prefix",
    "router/scheduling",
    "router/admission",
    "router/decisions",
    "router/trust",
    "cluster/scaling",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One Python file."""

    path: str
    """Relative to the project, with slashes."""
    text: str
    tree: ast.Module

    def within(self, *places: str) -> bool:
        """Whether the file is one of `places` or lies in a folder among them."""
        return any(self.path == one or self.path.startswith(f"{one}/") for one in places)

    def at(self, node: ast.AST) -> str:
        """`path:line` of a node, to be clicked on."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"

    def functions(self) -> Iterator[Function]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def names(self) -> Iterator[tuple[ast.AST, str]]:
        """Every name and attribute that is used, as it is imported: `time.monotonic` also where
        it was imported as `from time import monotonic as now`."""
        known = dict(self._imported())
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                head, dot, rest = dotted(node).partition(".")
                yield node, known.get(head, head) + dot + rest

    def imports(self) -> Iterator[tuple[ast.AST, str]]:
        """Modules that are imported anywhere in the file; relative ones do not occur."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node, node.module

    def comments(self) -> Iterator[tuple[int, str]]:
        """Line numbers and comments."""
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string

    def _imported(self) -> Iterator[tuple[str, str]]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname:
                        yield alias.asname, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def dotted(node: ast.AST) -> str:
    """`a.b().c` for such an expression; anything else on the way becomes `?`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return f"{dotted(node.func)}()" if isinstance(node, ast.Call) else "?"


@cache
def product() -> tuple[Source, ...]:
    """What is shipped."""
    return tuple(one for one in everything() if one.within(*PACKAGES))


@cache
def everything() -> tuple[Source, ...]:
    """What is shipped, and the tests."""
    return tuple(
        Source(path, text, ast.parse(text, path))
        for path in files()
        if path.endswith(".py")
        for text in [(ROOT / path).read_text(encoding="utf-8")]
    )


@cache
def uses() -> tuple[tuple[Source, ast.AST, str], ...]:
    """Every name that the product uses, with the place."""
    return tuple((source, node, name) for source in product() for node, name in source.names())


@cache
def comments() -> tuple[tuple[str, str], ...]:
    """Every comment, with its place."""
    return tuple(
        (f"{source.path}:{line}", comment)
        for source in everything()
        for line, comment in source.comments()
    )


@cache
def files() -> tuple[str, ...]:
    """All files that git tracks or would track, relative to the project."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    names = sorted(set(filter(None, listed.stdout.split("\0"))))
    return tuple(name for name in names if (ROOT / name).is_file())


def snippet(text: str) -> Source:
    """A file that does not exist, to see that a rule sees it."""
    return Source("router/example.py", text, ast.parse(text))


def report(faults: list[str], advice: str) -> None:
    """Fails with all faults and what to do about them."""
    assert not faults, "\n".join([advice, *faults])
