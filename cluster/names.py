"""Worker ids: `{model}-{n}` with the lowest free n, so that they stay the same for people.

Ids are unique over models: `/` becomes `--`, and a name in which that could be misread gets a
digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping


def model_slug(model: str) -> str:
    """The model's name as it stands in worker ids."""
    if any(pair in model for pair in ("--", "/-", "-/", "//")):
        digest = hashlib.sha256(model.encode()).hexdigest()[:8]
        return f"{model.replace('/', '--')}-x{digest}"
    return model.replace("/", "--")


def worker_id(model: str, number: int) -> str:
    return f"{model_slug(model)}-{number}"


def by_model(worker_ids: Iterable[str], models: Iterable[str]) -> Mapping[str, list[str]]:
    """The workers of each model by number, and under `""` those of no model named here."""
    models_by_slug = {model_slug(model): model for model in models}
    found: dict[str, list[str]] = {model: [] for model in models_by_slug.values()}
    found[""] = []
    for one in sorted(worker_ids, key=_slug_and_number):
        found[models_by_slug.get(_slug_and_number(one)[0], "")].append(one)
    return found


def _slug_and_number(one: str) -> tuple[str, int]:
    slug, _, number = one.rpartition("-")
    return (slug, int(number)) if number.isdecimal() else (one, -1)
