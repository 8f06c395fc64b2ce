"""One demonstration tokenizer for all tests of the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.prompts import PromptWriter
from tests.support.load_models import save_demo_tokenizer


@pytest.fixture(scope="session")
def demo_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_demo_tokenizer(tmp_path_factory.mktemp("demo-tokenizer"))


@pytest.fixture(scope="session")
def writer(demo_tokenizer: Path) -> PromptWriter:
    return PromptWriter.open(demo_tokenizer)
