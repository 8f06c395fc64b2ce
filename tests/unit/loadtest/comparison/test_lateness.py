from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from loadtest.comparison.lateness import lateness_ms_p99, note_lateness


def test_only_what_was_noted_in_between_counts(tmp_path: Path) -> None:
    path = tmp_path / "noted.bin"
    pairs = [(0.5, 9.0), *((1.0 + place / 100, 0.004) for place in range(100)), (2.5, 9.0)]
    path.write_bytes(np.array(pairs).tobytes() + b"half")
    assert lateness_ms_p99(path, 1.0, 2.0) == pytest.approx(4.0)


def test_nothing_noted_is_no_lateness_of_zero(tmp_path: Path) -> None:
    assert lateness_ms_p99(tmp_path / "missing.bin", 0.0, 1.0) is None
    (tmp_path / "empty.bin").touch()
    assert lateness_ms_p99(tmp_path / "empty.bin", 0.0, 1.0) is None


class LateClock:
    """Every sleep takes 5 ms more than asked for; the twentieth ends it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.sleeps = 0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.sleeps += 1
        if self.sleeps > 20:
            raise asyncio.CancelledError
        self.now_s += delay_s + 0.005


async def test_what_a_loop_is_late_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "noted.bin"
    with pytest.raises(asyncio.CancelledError):
        await note_lateness(path, LateClock())
    assert lateness_ms_p99(path, 100.0, 200.0) == pytest.approx(5.0)
