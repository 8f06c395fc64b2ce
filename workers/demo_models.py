"""Models by source: makes the demonstration models, checks local directories, passes hub ids on.

`demo:llama` (28M parameters) and `demo:mixtral` (5M, four experts) are made on first use, without
torch and without a download, the same bytes on every machine. A directory appears whole or not at
all, and processes that want the same one at once wait for the first.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rhizome.errors import ModelUnusable
from workers import demo_tokenizer as words
from workers.demo_weights import DEMO_DIMENSIONS, Dimensions, model_config, to_bfloat16, weights
from workers.model_directory import check_model_directory, names_a_directory

DEMO_PREFIX = "demo:"
CONTENT_VERSION = 1
"""Raise it whenever the bytes of a demonstration model change: it is part of the name."""

Progress = Callable[[str, float], None]
"""Told the phase, in words, and the share of it that is done, 0 to 1."""


def ensure_model(
    source: str, models_directory: Path, progress: Progress = lambda phase, share: None
) -> Path:
    """Where the engine and the tokenizer find the model: a directory, or a hub id as it is.

    Blocks (a few seconds for a demonstration model made for the first time). Raises
    `ModelUnusable` with the cause.
    """
    if source.startswith(DEMO_PREFIX):
        return _ensure_demo(
            source.removeprefix(DEMO_PREFIX), models_directory.expanduser(), progress
        )
    if names_a_directory(source):
        directory = Path(source).expanduser().resolve()
        check_model_directory(directory)
        return directory
    return Path(source)


def _ensure_demo(name: str, models_directory: Path, progress: Progress) -> Path:
    sizes = DEMO_DIMENSIONS.get(name)
    if sizes is None:
        known = ", ".join(f"{DEMO_PREFIX}{one}" for one in DEMO_DIMENSIONS)
        raise ModelUnusable(
            f"there is no demonstration model {name!r}", advice=f"The known ones are {known}."
        )
    directory = models_directory / f"demo-{name}-{CONTENT_VERSION}"
    if directory.is_dir():
        return directory
    try:
        models_directory.mkdir(parents=True, exist_ok=True)
        with _only_one(models_directory / f".demo-{name}.lock"):
            if not directory.is_dir():
                _make(sizes, directory, progress)
    except OSError as error:
        raise ModelUnusable(
            f"cannot write the demonstration model to {models_directory}: {error}",
            advice="Set `state_directory` to a place with 100 MB of room that you may write to.",
        ) from error
    return directory


@contextmanager
def _only_one(lock_file: Path) -> Iterator[None]:
    """Waits for other processes that make the same model; the lock ends with its process."""
    with lock_file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make(sizes: Dimensions, directory: Path, progress: Progress) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        progress("training the tokenizer", 0.0)
        tokenizer = words.train_tokenizer()
        texts = {
            "config.json": words.as_json(model_config(sizes)),
            "generation_config.json": words.as_json(_generation_config()),
            "tokenizer.json": tokenizer.to_str(pretty=False),
            "tokenizer_config.json": words.as_json(words.tokenizer_config(sizes.max_model_len)),
            "chat_template.jinja": words.chat_template(),
        }
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        progress("training the tokenizer", 1.0)
        _write_weights(
            sizes, words.wordlike_ids(tokenizer), partial / "model.safetensors", progress
        )
        partial.chmod(0o755)
        partial.rename(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _generation_config() -> dict[str, Any]:
    return {
        "bos_token_id": words.BOS_ID,
        "eos_token_id": [words.EOS_ID, words.TURN_END_ID],
        "pad_token_id": words.PAD_ID,
    }


def _write_weights(sizes: Dimensions, wordlike: list[int], file: Path, progress: Progress) -> None:
    """Writes the safetensors format: header length, JSON header, tensors in the header's order."""
    phase = "making the weights"
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs: list[bytes] = []
    offset = 0
    steps = 3 + sizes.layers * (8 + 3 * max(1, sizes.experts))
    for number, (name, tensor) in enumerate(weights(sizes, wordlike)):
        if number % 16 == 0:
            progress(phase, min(1.0, number / steps))
        blob = to_bfloat16(tensor)
        end = offset + len(blob)
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, end]}
        blobs.append(blob)
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        out.writelines(blobs)
    progress(phase, 1.0)
