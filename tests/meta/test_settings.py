"""The settings: every field says what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel

from rhizome.settings.tree import Settings
from tests.meta.sources import report


def fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str | None]]:
    """Every field below the model, by dotted path, with its description."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field.description
        for kind in [field.annotation, *get_args(field.annotation)]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind, f"{path}{name}.")


def test_every_setting_is_described() -> None:
    report(
        [path for path, description in fields(Settings) if not (description or "").strip()],
        "Write the meaning and unit as a docstring under the field:",
    )


def test_the_walk_sees_the_whole_tree() -> None:
    paths = {path for path, _ in fields(Settings)}
    assert {"router.scheduling.policy", "models.parallel.tensor", "redis.url"} <= paths


def test_descriptions_are_sentences() -> None:
    report(
        [
            f"{path}: {description!r}"
            for path, description in fields(Settings)
            if description and (not description.strip().endswith(".") or "\n\n" in description)
        ],
        "One sentence or two, ending in a full stop:",
    )
