"""Background tasks: named, seen when they fail, ended with their owner."""

from __future__ import annotations

import asyncio
import logging

import pytest

from rhizome.tasks import Tasks


async def _fail() -> None:
    raise ValueError("broken")


async def test_leaving_the_block_cancels_and_awaits_what_still_runs() -> None:
    ended: list[str] = []

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("run")

    async with Tasks("test") as tasks:
        task = tasks.start("forever", run())
        await asyncio.sleep(0)
        assert len(tasks) == 1
        assert task.get_name() == "test:forever"
    assert ended == ["run"]
    assert task.cancelled()
    assert len(tasks) == 0


async def test_a_task_gives_its_result_and_is_forgotten() -> None:
    async def answer() -> int:
        return 42

    async with Tasks("test") as tasks:
        assert await tasks.start("answer", answer()) == 42
        assert len(tasks) == 0


async def test_a_failure_is_logged_once_and_told_to_the_owner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Tasks("test") as tasks:
        tasks.start("one", _fail())
        error = await asyncio.wait_for(tasks.first_failure(), 5)
        assert isinstance(error, ValueError)
        assert await tasks.first_failure() is error
        tasks.start("two", _fail())
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert 1 <= len(failures) <= 2
    assert "test:one" in failures[0].getMessage()


async def test_a_cancelled_task_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async with Tasks("test") as tasks:
        task = tasks.start("gone", asyncio.sleep(60))
        task.cancel()
    assert not caplog.records


async def test_a_task_that_ignores_its_cancellation_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    tasks = Tasks("test", close_timeout_s=0.05)
    async with tasks:
        task = tasks.start("stubborn", stubborn())
        await asyncio.sleep(0)
    assert "test:stubborn ignored its cancellation" in caplog.text
    release.set()
    await task


async def test_waiting_for_failures_needs_the_block() -> None:
    with pytest.raises(RuntimeError, match="enter the block"):
        await Tasks("test").first_failure()
