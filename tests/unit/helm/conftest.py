"""The chart, loaded once, and renders that many tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.helm.chart import CI_FILES, EVERYTHING, Chart, Render, read_values


@pytest.fixture(scope="session")
def chart() -> Iterator[Chart]:
    loaded = Chart()
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def default(chart: Chart) -> Render:
    return chart.render()


@pytest.fixture(scope="session")
def everything(chart: Chart) -> Render:
    return chart.render(EVERYTHING)


@pytest.fixture(scope="session", params=CI_FILES, ids=lambda file: file.stem)
def ci(chart: Chart, request: pytest.FixtureRequest) -> Render:
    """One render per file of ci/."""
    file: Path = request.param
    return chart.render(read_values(file))
