"""Several processes' metrics pages as one: every sample gets a label that names its process.

Nothing is summed: a counter that was summed over processes would jump back when one of them ends,
and a sum of gauges such as the blocks that each index holds would be wrong. `sum by (...)` in a
query leaves the label out.
"""

from __future__ import annotations

from collections.abc import Mapping

LABEL = "process"


def merged(pages: Mapping[str, str]) -> str:
    """One page (Prometheus text format 0.0.4) of pages by process, families kept together."""
    heads: dict[str, dict[str, str]] = {}
    samples: dict[str, list[str]] = {}
    for process, page in pages.items():
        family = ""
        for line in page.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                _, kind, family = line.split(" ", 3)[:3]
                heads.setdefault(family, {}).setdefault(kind, line)
                samples.setdefault(family, [])
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(labelled(line, process))
    lines: list[str] = []
    for family, of_family in samples.items():
        lines += heads.get(family, {}).values()
        lines += of_family
    return "\n".join(lines) + "\n" if lines else ""


def labelled(sample: str, process: str) -> str:
    """The sample line with the label as its first one."""
    name_end = min(at for at in (sample.find("{"), sample.find(" ")) if at >= 0)
    name, rest = sample[:name_end], sample[name_end:]
    own = f'{LABEL}="{process}"'
    if not rest.startswith("{"):
        return f"{name}{{{own}}}{rest}"
    return f"{name}{{{own}{'' if rest.startswith('{}') else ','}{rest[1:]}"
