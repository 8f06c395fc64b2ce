"""ARCHITECTURE.md tells of every module, in the module's own words."""

from __future__ import annotations

from tools.module_map import ROOT, module_map, with_map


def test_the_module_map_is_up_to_date() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert text == with_map(text, module_map()), "run `python -m tools.module_map`"
