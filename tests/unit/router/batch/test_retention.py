"""Files and batches go when their time is over, and not before."""

from __future__ import annotations

import pytest
from openai import NotFoundError

from rhizome.clock import ManualClock
from rhizome.settings.cluster import BatchSettings
from router.batch.retention import Retention
from tests.support.batches import BatchBench, FakeEndpoint, chat_line, jsonl, serving

RETENTION_S = BatchSettings().retention_s


def retention(bench: BatchBench, later_s: float) -> Retention:
    """As a runner sees it so much later."""
    clock = ManualClock(bench.clock.wall_s() + later_s)
    place = bench.place
    return Retention(place.catalog, place.contents, clock, RETENTION_S)


async def test_an_ended_batch_and_its_files_stay_for_the_retention(bench: BatchBench) -> None:
    async with serving(FakeEndpoint()) as url, bench.running(url):
        batch_id = await bench.submit(jsonl([chat_line("a")]))
        batch = await bench.ended(batch_id)
    await retention(bench, RETENTION_S - 3600.0).sweep()
    assert len(await bench.lines_of(batch.output_file_id)) == 1
    assert (await bench.client.batches.retrieve(batch_id)).status == "completed"
    await retention(bench, RETENTION_S + 3600.0).sweep()
    with pytest.raises(NotFoundError):
        await bench.client.batches.retrieve(batch_id)
    for file_id in (batch.input_file_id, batch.output_file_id):
        assert file_id is not None
        with pytest.raises(NotFoundError):
            await bench.client.files.retrieve(file_id)
    assert list(bench.directory.iterdir()) == []


async def test_what_a_batch_still_needs_stays(bench: BatchBench) -> None:
    batch_id = await bench.submit(jsonl([chat_line("a")]))
    await retention(bench, RETENTION_S + 3600.0).sweep()
    batch = await bench.client.batches.retrieve(batch_id)
    file = await bench.client.files.retrieve(batch.input_file_id)
    assert file.expires_at == file.created_at + RETENTION_S
    assert len(await bench.lines_of(batch.input_file_id)) == 1


async def test_every_file_is_looked_at_however_many_there_are(
    bench: BatchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.batch.catalog._PAGE", 2)
    for _ in range(5):
        await bench.client.files.create(file=("in.jsonl", jsonl([chat_line("a")])), purpose="batch")
    await retention(bench, RETENTION_S + 3600.0).sweep()
    assert (await bench.client.files.list()).data == []
