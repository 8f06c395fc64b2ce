"""Heavy libraries stay where they belong, and the import contracts know every module.

The layers themselves are checked by import-linter (`make lint`); this looks at what it cannot see.
"""

from __future__ import annotations

import ast
import tomllib

import pytest

from tests.meta.sources import ROOT, product, report

HOMES = {
    "ray": ("cluster", "workers/actor.py"),
    "vllm": ("workers/engine/vllm.py",),
    "torch": ("workers/engine/vllm.py",),
    "redis": ("rhizome/stores",),
    "kubernetes": ("cluster/kubernetes", "router/discovery"),
}
GROUND = "The ground imports nobody"


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_is_imported_at_home_only(library: str) -> None:
    report(
        [
            f"{source.at(node)}: import {module}"
            for source in product()
            if not source.within(*HOMES[library])
            for node, module in source.imports()
            if module.partition(".")[0] == library
        ],
        f"{library} is imported in {', '.join(HOMES[library])} only; go through what is there:",
    )


def test_the_ground_contract_lists_every_module_of_the_ground() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {one["name"]: one for one in project["tool"]["importlinter"]["contracts"]}
    modules = {
        f"rhizome.{name.removesuffix('.py')}"
        for source in product()
        if source.within("rhizome")
        for name in [source.path.split("/")[1]]
        if name not in {"__init__.py", "cli"}
    }
    report(
        sorted(modules ^ set(contracts[GROUND]["source_modules"])),
        f"Make source_modules of {GROUND!r} in pyproject.toml equal to the modules there are:",
    )


def test_nothing_is_imported_relatively() -> None:
    report(
        [
            source.at(node)
            for source in product()
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ImportFrom) and node.level
        ],
        "Import by the full name:",
    )
