"""Writes the settings back: as a tree for a file, with secrets shown or masked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml
from pydantic import SecretStr

from rhizome.settings.tree import Settings

MASK = "***"


def settings_tree(
    settings: Settings, *, reveal_secrets: bool = False, defaults: bool = True
) -> dict[str, Any]:
    """Plain values, nested as the settings are; secrets as `***` unless they are to be revealed.

    Without `defaults`, only what differs from them.
    """
    dumped = settings.model_dump(exclude_defaults=not defaults)
    tree: dict[str, Any] = _plain(dumped, reveal_secrets)
    return tree


def settings_yaml(
    settings: Settings, *, reveal_secrets: bool = False, defaults: bool = True
) -> str:
    """The same as a YAML document that `load_settings` reads."""
    tree = settings_tree(settings, reveal_secrets=reveal_secrets, defaults=defaults)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _plain(value: Any, reveal_secrets: bool) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one, reveal_secrets) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, reveal_secrets) for one in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value() if reveal_secrets else MASK
    if isinstance(value, PurePath):
        return str(value)
    return value
