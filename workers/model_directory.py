"""Checks of a local model directory, so that a broken one is named before an engine starts.

Reads only small files and the headers of the weights. What the model can do is for the engine to
find out.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from rhizome.errors import ModelUnusable

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?\Z")
_HEADER_BYTES_MAX = 100 * 2**20
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


def names_a_directory(source: str) -> bool:
    """Whether a model's source means a local directory rather than a hub id."""
    return _HUB_ID.match(source) is None or Path(source).is_dir()


def check_model_directory(directory: Path) -> None:
    """Raises `ModelUnusable` unless configuration, weights and tokenizer are there and whole."""
    if not directory.is_dir():
        raise ModelUnusable(
            f"the model directory {directory} does not exist",
            advice="Give a directory with config.json and weights, a hub id, or demo:llama.",
        )
    _read_object(directory / "config.json")
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelUnusable(
            f"{directory} holds no tokenizer",
            advice=f"One of {', '.join(_TOKENIZER_FILES)} is needed.",
        )
    for file in _weight_files(directory):
        if file.suffix == ".safetensors":
            check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Raises `ModelUnusable` unless the file is as long as its header says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            start = handle.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, _HEADER_BYTES_MAX):
                raise _broken(file, f"is cut off or no safetensors file ({size} bytes)")
            header = json.loads(handle.read(length))
        ends = [
            int(tensor["data_offsets"][1])
            for name, tensor in header.items()
            if name != "__metadata__"
        ]
    except OSError as error:
        raise _broken(file, f"cannot be read: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _broken(file, f"has a broken header: {error}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _broken(file, f"has {size} bytes where its header says {expected}")


def _weight_files(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        shards = _read_object(index).get("weight_map")
        if not isinstance(shards, dict):
            raise _broken(index, "has no weight_map")
        names = sorted({str(name) for name in shards.values()})
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise ModelUnusable(
                f"{directory} lacks {len(missing)} weight files of {len(names)}: {missing[0]}…",
                advice="Fetch the model again.",
            )
        return [directory / name for name in names]
    files = [
        file
        for pattern in ("*.safetensors", "*.bin", "*.pt", "*.gguf")
        for file in sorted(directory.glob(pattern))
    ]
    if not files:
        raise ModelUnusable(
            f"{directory} holds no weights", advice="A *.safetensors file is expected there."
        )
    return files


def _read_object(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelUnusable(
            f"{file.parent} holds no {file.name}",
            advice="A model directory in Hugging Face's layout is needed.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(file, f"cannot be read as JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _broken(file, "does not hold a JSON object")
    return fields


def _broken(file: Path, what: str) -> ModelUnusable:
    return ModelUnusable(f"the model file {file} {what}", advice="Fetch or copy the file again.")
