"""The files of a comparison: its numbers, its table, and a page to look at."""

from __future__ import annotations

from pathlib import Path

from loadtest.comparison.results import ComparisonResult, write_comparison
from loadtest.comparison.tables import markdown_of

TABLE_FILE = "table.md"


def write_all(directory: Path, result: ComparisonResult) -> list[Path]:
    """Writes them; returns where they are."""
    numbers = write_comparison(directory, result)
    table = directory / TABLE_FILE
    table.write_text(markdown_of(result), encoding="utf-8")
    return [numbers, table]
