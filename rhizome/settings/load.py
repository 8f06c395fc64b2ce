"""Reads the settings: defaults, then a YAML file, then `RHIZOME_…` variables, then flags.

The environment is read nowhere else. `RHIZOME_ROUTER__PORT=8080` sets `router.port`; values are
YAML scalars. An unknown key is an error that names the key and the nearest known one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rhizome.errors import SettingsError
from rhizome.settings.tree import Settings

PREFIX = "RHIZOME_"
Tree = dict[str, Any]


def load_settings(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The merged settings.

    `flags` maps dotted paths (`router.port`) to values; None values are flags that were not given.
    Raises `SettingsError` naming the key and where it came from.
    """
    tree: Tree = _from_file(file) if file is not None else {}
    _merge(tree, _from_environment(os.environ if environment is None else environment))
    given = {path: value for path, value in (flags or {}).items() if value is not None}
    for path, value in given.items():
        _set(tree, path.split("."), value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(
            "the settings are not valid:\n" + "\n".join(_explain(error)),
            advice="`rhizome config --schema` prints every setting with its meaning.",
        ) from error


def environment_copy() -> dict[str, str]:
    """A copy of this process's environment, for a child process to be started with."""
    return dict(os.environ)


def _from_file(file: Path) -> Tree:
    advice = "Give a YAML file with `--config FILE`; `rhizome config` prints one to start from."
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"cannot read the settings file {file}: {error}", advice=advice
        ) from error
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is not valid YAML: {error}", advice=advice) from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{file} must hold a mapping, not {type(tree).__name__}", advice=advice)
    return tree


def _from_environment(environment: Mapping[str, str]) -> Tree:
    tree: Tree = {}
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX):
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        _set(tree, name.removeprefix(PREFIX).lower().split("__"), value)
    return tree


def _set(tree: Tree, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[path[-1]] = value


def _merge(tree: Tree, above: Tree) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        path = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _known_keys(Settings, [str(part) for part in fault["loc"][:-1]])
            nearest = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.0)
            hint = f"; the nearest known one is {nearest[0]!r}" if nearest else ""
            lines.append(f"  {path}: unknown setting{hint}")
        else:
            lines.append(f"  {path or 'settings'}: {fault['msg']}")
    return lines


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The field names of the slice at `path`; list positions in the path are passed over."""
    for part in path:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        inner = [field.annotation, *get_args(field.annotation)]
        slices = [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
        if not slices:
            return []
        model = slices[0]
    return list(model.model_fields)
