"""Finding and reading the files that say how a model's prompts are made.

No network: a model known by its hub name is found only if its snapshot is already in the local
Hugging Face cache. Precedence among the files is that of transformers 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rhizome.errors import ModelUnusable
from rhizome.settings.load import environment_copy

FILE_BYTES_MAX = 256 * 2**20
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_ADVICE = (
    "save the model's fast tokenizer there (tokenizer.json, tokenizer_config.json), "
    "or leave the tokenizer unset to route by bytes"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's directory says about prompts."""

    directory: Path
    tokenizer: dict[str, Any]
    """`tokenizer.json`."""
    tokenizer_config: dict[str, Any]
    special_tokens_map: dict[str, Any]
    added_tokens: dict[str, Any]
    """`added_tokens.json`, of old checkpoints: id by token."""
    config: dict[str, Any]
    """The model's own `config.json`."""
    templates: dict[str, str]
    """Chat templates by name; the one without a name is `default`."""
    processor_template: str | None
    """Of a multimodal processor; used for requests without tools."""
    has_native_mistral_files: bool
    """vLLM then reads Mistral's own tokenizer format and not these files."""


def model_directory(
    tokenizer: Path | None,
    model_root: str | None,
    environment: Mapping[str, str] | None = None,
) -> Path | None:
    """The directory to load from: the one given, a local root, a cached hub snapshot, or None."""
    if tokenizer is not None:
        return tokenizer
    if not model_root:
        return None
    local = Path(model_root).expanduser()
    if local.is_dir():
        return local
    if _HUB_NAME.match(model_root):
        return _cached_snapshot(
            model_root, environment_copy() if environment is None else environment
        )
    return None


def _cached_snapshot(name: str, environment: Mapping[str, str]) -> Path | None:
    home = Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    hub = Path(environment.get("HF_HOME") or home) / "hub"
    cache = Path(environment.get("HF_HUB_CACHE") or hub).expanduser()
    repository = cache / f"models--{name.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    snapshot = repository / "snapshots" / revision
    usable = re.fullmatch(r"[0-9a-f]{40}", revision) and (snapshot / "tokenizer.json").is_file()
    return snapshot if usable else None


def read_files(directory: Path) -> ModelFiles:
    """Reads the directory; raises `ModelUnusable` when it cannot serve as a tokenizer."""
    if not directory.is_dir():
        raise ModelUnusable(f"there is no directory {directory}", advice=_ADVICE)
    if not (directory / "tokenizer.json").is_file():
        raise ModelUnusable(f"{directory} has no tokenizer.json", advice=_ADVICE)
    tokenizer_config = _json(directory / "tokenizer_config.json")
    return ModelFiles(
        directory=directory,
        tokenizer=_json(directory / "tokenizer.json"),
        tokenizer_config=tokenizer_config,
        special_tokens_map=_json(directory / "special_tokens_map.json"),
        added_tokens=_json(directory / "added_tokens.json"),
        config=_json(directory / "config.json"),
        templates=_templates(directory, tokenizer_config.get("chat_template")),
        processor_template=_processor_template(directory),
        has_native_mistral_files=_has_native_mistral_files(directory),
    )


def _templates(directory: Path, configured: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    if (directory / "chat_template.jinja").is_file():
        found["default"] = _text(directory / "chat_template.jinja")
    named = directory / "additional_chat_templates"
    if named.is_dir():
        for path in sorted(named.glob("*.jinja")):
            found[path.name.removesuffix(".jinja")] = _text(path)
    if found:
        return found
    if isinstance(configured, str):
        return {"default": configured}
    if isinstance(configured, dict):
        configured = [{"name": name, "template": text} for name, text in configured.items()]
    if isinstance(configured, list):
        for entry in configured:
            if not isinstance(entry, dict) or not isinstance(entry.get("template"), str):
                raise ModelUnusable(
                    f"chat_template in {directory}/tokenizer_config.json is not a list of "
                    "{name, template}",
                    advice=_ADVICE,
                )
            found[str(entry.get("name"))] = entry["template"]
    return found


def _processor_template(directory: Path) -> str | None:
    processors = ("processor_config.json", "preprocessor_config.json")
    if not any((directory / name).is_file() for name in processors):
        return None
    if (directory / "chat_template.jinja").is_file():
        return _text(directory / "chat_template.jinja")
    template = _json(directory / "chat_template.json").get("chat_template")
    return template if isinstance(template, str) else None


def _has_native_mistral_files(directory: Path) -> bool:
    native = any(directory.glob("consolidated*.safetensors"))
    return native and (
        (directory / "tekken.json").exists() or any(directory.glob("tokenizer.model.v*"))
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in the file; empty when there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"{path} is not valid JSON: {error}", advice=_ADVICE) from error
    if not isinstance(content, dict):
        raise ModelUnusable(f"{path} does not hold a JSON object", advice=_ADVICE)
    return content


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ModelUnusable(f"{path} is longer than {FILE_BYTES_MAX} bytes", advice=_ADVICE)
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelUnusable(f"{path} cannot be read: {error}", advice=_ADVICE) from error
