"""Writes the module map of ARCHITECTURE.md from the modules' own docstrings.

`python -m tools.module_map` rewrites it; tests/meta holds it up to date.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rhizome", "router", "workers", "cluster", "loadtest")
BEGIN = "<!-- module map: written by `python -m tools.module_map` -->"
END = "<!-- end of module map -->"


def module_map(root: Path = ROOT) -> str:
    """A heading per package, a line per module with the first paragraph of its docstring."""
    lines = []
    for package in PACKAGES:
        lines += ["", f"### {package}/", "", "| module | what it is |", "|---|---|"]
        for file in sorted((root / package).rglob("*.py")):
            if file.read_bytes().strip():
                name = str(file.relative_to(root / package))
                lines.append(f"| `{name}` | {_summary(file)} |")
    return "\n".join([BEGIN, *lines, "", END])


def with_map(text: str, new_map: str) -> str:
    """The document with its map replaced; raises ValueError where the marks are missing."""
    begin, end = text.index(BEGIN), text.index(END) + len(END)
    return text[:begin] + new_map + text[end:]


def _summary(file: Path) -> str:
    documentation = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(documentation.split("\n\n")[0].split())
    return paragraph.removesuffix(".").replace("|", "\\|")


if __name__ == "__main__":
    document = ROOT / "ARCHITECTURE.md"
    document.write_text(with_map(document.read_text(encoding="utf-8"), module_map()), "utf-8")
