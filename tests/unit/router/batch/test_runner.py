"""A runner against an endpoint that does as it is told, on stores in memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest
from aiohttp import web

from rhizome.errors import StoreUnavailable
from rhizome.stores.lines import LineResult
from router.batch.progress import Progress
from router.batch.records import BatchRecord, BatchStatus
from tests.support.batches import BatchBench, FakeEndpoint, chat_line, jsonl, serving
from tests.support.waiting import eventually


def _said(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in lines
    }


async def test_every_line_is_answered_in_the_output_file(bench: BatchBench) -> None:
    endpoint = FakeEndpoint()
    async with serving(endpoint) as url, bench.running(url):
        lines = [chat_line(f"c{number}", f"say {number}") for number in range(30)]
        batch = await bench.ended(await bench.submit(jsonl(lines)))
    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 30, "completed": 30, "failed": 0}
    assert batch.error_file_id is None
    output = await bench.lines_of(batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"c{number}" for number in range(30)]
    assert _said(output) == {f"c{number}": f"say {number}" for number in range(30)}
    first = output[0]
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert first["id"].startswith("batch_req_")
    assert first["response"]["status_code"] == 200
    assert first["response"]["request_id"]
    assert first["error"] is None
    assert max(endpoint.asked.values()) == 1
    assert endpoint.in_flight_max <= bench.settings.concurrency
    stamps = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert None not in stamps
    assert list(stamps) == sorted(stamps)


async def test_lines_go_out_as_batch_work_with_a_key(bench: BatchBench) -> None:
    endpoint = FakeEndpoint()
    async with serving(endpoint) as url, bench.running(url):
        await bench.ended(await bench.submit(jsonl([chat_line("a")])))
    (headers,) = endpoint.headers
    lowered = {name.lower(): value for name, value in headers.items()}
    assert lowered["x-rhizome-priority"] == "batch"
    assert lowered["authorization"] == "Bearer rzk-key"


async def test_malformed_and_refused_lines_end_in_the_error_file(bench: BatchBench) -> None:
    async def refuse_bad(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if body["messages"][0]["content"] != "bad":
            return None
        return web.json_response({"error": {"message": "no"}}, status=400)

    endpoint = FakeEndpoint()
    endpoint.behave = refuse_bad
    content = jsonl([chat_line("good"), chat_line("refused", "bad"), chat_line("good")])
    async with serving(endpoint) as url, bench.running(url):
        batch = await bench.ended(await bench.submit(content + b"not json\n"))
    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 1, "failed": 3}
    refused, double, malformed = await bench.lines_of(batch.error_file_id)
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"] == {"error": {"message": "no"}}
    assert refused["error"] is None
    assert (double["response"], double["error"]["code"]) == (None, "duplicate_custom_id")
    assert (malformed["custom_id"], malformed["error"]["code"]) == (None, "invalid_json_line")


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty_file"), (b"x\n" * 101, "too_many_tasks")]
)
async def test_a_file_that_cannot_be_run_fails_the_batch(
    bench: BatchBench, content: bytes, code: str
) -> None:
    async with bench.running("http://127.0.0.1:9"):
        batch = await bench.ended(await bench.submit(content))
    assert batch.status == "failed"
    assert [fault.code for fault in batch.errors.data] == [code]
    assert batch.failed_at is not None


async def test_a_vanished_input_fails_the_batch(bench: BatchBench) -> None:
    batch_id = await bench.submit(jsonl([chat_line("a")]))
    (file,) = (await bench.client.files.list()).data
    await bench.client.files.delete(file.id)
    async with bench.running("http://127.0.0.1:9"):
        batch = await bench.ended(batch_id)
    assert [fault.code for fault in batch.errors.data] == ["file_not_found"]


async def test_a_busy_router_costs_time_and_no_failure(bench: BatchBench) -> None:
    async def busy_often(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if endpoint.asked[body["messages"][0]["content"]] > 8:
            return None
        status = 429 if endpoint.asked.total() % 2 else 503
        return web.json_response({"error": {}}, status=status, headers={"retry-after": "1"})

    endpoint = FakeEndpoint()
    endpoint.behave = busy_often
    async with serving(endpoint) as url, bench.running(url):
        batch = await bench.ended(await bench.submit(jsonl([chat_line("a"), chat_line("b", "x")])))
    assert batch.request_counts.completed == 2
    assert set(endpoint.asked.values()) == {9}


async def test_a_router_that_is_down_is_waited_for(bench: BatchBench) -> None:
    endpoint = FakeEndpoint()
    async with serving(endpoint) as url:
        port = int(url.rpartition(":")[2])
    async with bench.running(url):
        batch_id = await bench.submit(jsonl([chat_line("a")]))

        async def held() -> bool:
            return bool(await bench.stores.lines.depth())

        await eventually(held)
        async with serving(endpoint, port):
            batch = await bench.ended(batch_id)
    assert batch.request_counts.completed == 1


async def test_a_line_that_keeps_failing_is_given_up_after_a_few_attempts(
    bench: BatchBench,
) -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> web.Response | None:
        if body["messages"][0]["content"] == "breaks" and request.transport is not None:
            request.transport.close()
        return web.json_response({"error": {"code": "worker_died"}}, status=502)

    endpoint = FakeEndpoint()
    endpoint.behave = fail
    content = jsonl([chat_line("a", "fails"), chat_line("b", "breaks")])
    async with serving(endpoint) as url, bench.running(url):
        batch = await bench.ended(await bench.submit(content))
    failed, broken = await bench.lines_of(batch.error_file_id)
    assert failed["response"]["status_code"] == 502
    assert broken["error"]["code"] == "connection_broken"
    assert set(endpoint.asked.values()) == {bench.settings.deliveries_max}


async def test_a_response_that_cannot_be_kept_is_said(bench: BatchBench) -> None:
    async def odd(request: web.Request, body: dict[str, Any]) -> web.Response:
        if body["messages"][0]["content"] == "long":
            return web.Response(body=b"x" * (bench.settings.result_bytes_max + 1))
        return web.Response(text="not json\n")

    endpoint = FakeEndpoint()
    endpoint.behave = odd
    content = jsonl([chat_line("a", "long"), chat_line("b", "text")])
    async with serving(endpoint) as url, bench.running(url):
        batch = await bench.ended(await bench.submit(content))
    codes = [line["error"]["code"] for line in await bench.lines_of(batch.error_file_id)]
    assert codes == ["response_too_long", "invalid_response"]


async def test_cancelling_stops_the_work_and_keeps_what_is_done(bench: BatchBench) -> None:
    aborted = asyncio.Event()

    async def hang_on_slow(request: web.Request, body: dict[str, Any]) -> None:
        if body["messages"][0]["content"] == "slow":
            try:
                await asyncio.sleep(60)
            finally:
                aborted.set()

    endpoint = FakeEndpoint()
    endpoint.behave = hang_on_slow
    lines = [chat_line("quick")] + [chat_line(f"c{number}", "slow") for number in range(50)]
    async with serving(endpoint) as url, bench.running(url):
        batch_id = await bench.submit(jsonl(lines))

        async def one_done() -> bool:
            counts = (await bench.client.batches.retrieve(batch_id)).request_counts
            return counts is not None and counts.completed == 1 and endpoint.asked["slow"] > 0

        await eventually(one_done)
        assert (await bench.client.batches.cancel(batch_id)).status == "cancelling"
        batch = await bench.ended(batch_id, within_s=20)
        await asyncio.wait_for(aborted.wait(), 20)

        async def drained() -> bool:
            return await bench.stores.lines.depth() == 0

        await eventually(drained)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert batch.request_counts.to_dict() == {"total": 51, "completed": 1, "failed": 0}
    assert _said(await bench.lines_of(batch.output_file_id)) == {"quick": "hi"}
    assert endpoint.asked["slow"] <= bench.settings.concurrency


async def test_a_batch_whose_time_is_up_says_so_for_every_line_left(bench: BatchBench) -> None:
    batch_id = await bench.submit(jsonl([chat_line(f"c{number}") for number in range(3)]))
    await bench.place.catalog.change_batch(
        batch_id,
        lambda record: msgspec.structs.replace(
            record, status=BatchStatus.IN_PROGRESS, lines=3, expires_at=record.created_at - 1
        ),
    )
    await bench.stores.lines.settle(batch_id, [(1, LineResult(b'{"custom_id":"c1"}'))])
    async with bench.running("http://127.0.0.1:9"):
        batch = await bench.ended(batch_id)
    assert batch.status == "expired"
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 1, "failed": 2}
    errors = await bench.lines_of(batch.error_file_id)
    assert [line["custom_id"] for line in errors] == ["c0", "c2"]
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


async def test_a_line_handed_out_too_often_is_buried(bench: BatchBench) -> None:
    batch_id = await bench.submit(jsonl([chat_line("poison")]))
    note = (await bench.place.catalog.open_batches())[0]
    await Progress(bench.place, "killed").step(note)
    for _ in range(bench.settings.deliveries_max):
        assert await bench.stores.lines.lease("killed", 1, 1e-9)
        await asyncio.sleep(0.001)
    (last,) = await bench.stores.lines.lease("killed", 1, 1e-9)
    # The lease is made to end at once for the next consumer, with the count kept.
    await bench.stores.lines.release("killed", [last.receipt])
    endpoint = FakeEndpoint()
    async with serving(endpoint) as url, bench.running(url):
        batch = await bench.ended(batch_id)
    assert not endpoint.asked
    (error,) = await bench.lines_of(batch.error_file_id)
    assert error["error"]["code"] == "deliveries_exhausted"
    ((line, cause),) = await bench.stores.lines.dead_letters(10)
    assert line.custom_id == "poison"
    assert str(bench.settings.deliveries_max) in cause


async def test_a_runner_that_stops_gives_its_lines_back(bench: BatchBench) -> None:
    async def hang(request: web.Request, body: dict[str, Any]) -> None:
        await asyncio.sleep(60)

    endpoint = FakeEndpoint()
    endpoint.behave = hang
    async with serving(endpoint) as url:
        async with bench.running(url):
            batch_id = await bench.submit(jsonl([chat_line(f"c{n}") for n in range(3)]))

            async def all_asked() -> bool:
                return endpoint.in_flight == 3

            await eventually(all_asked)
        endpoint.behave = None
        async with bench.running(url, "runner-2"):
            batch = await bench.ended(batch_id, within_s=bench.settings.lease_s / 2)
    assert batch.request_counts.completed == 3


async def test_two_runners_share_the_work_and_store_each_result_once(bench: BatchBench) -> None:
    endpoint = FakeEndpoint()
    async with serving(endpoint) as url, bench.running(url), bench.running(url, "runner-2"):
        lines = [chat_line(f"c{number}", str(number)) for number in range(100)]
        batch = await bench.ended(await bench.submit(jsonl(lines)))
    assert batch.request_counts.completed == 100
    assert len(await bench.lines_of(batch.output_file_id)) == 100
    assert len(list(bench.directory.iterdir())) == 2


async def test_a_store_that_goes_away_for_a_while_costs_no_line(
    bench: BatchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = False

    def flaky(name: str) -> None:
        honest = getattr(bench.stores.lines, name)

        async def ask(*arguments: Any) -> Any:
            if away:
                raise StoreUnavailable("the shared store cannot be reached")
            return await honest(*arguments)

        monkeypatch.setattr(bench.stores.lines, name, ask)

    for name in ("lease", "complete", "renew", "counts"):
        flaky(name)

    async def answer_while_away(request: web.Request, body: dict[str, Any]) -> None:
        nonlocal away
        if endpoint.asked.total() == 5:
            away = True

    endpoint = FakeEndpoint()
    endpoint.behave = answer_while_away
    async with serving(endpoint) as url, bench.running(url):
        lines = [chat_line(f"c{number}", str(number)) for number in range(20)]
        batch_id = await bench.submit(jsonl(lines))

        async def idle() -> bool:
            return away and endpoint.in_flight == 0

        await eventually(idle)
        await asyncio.sleep(0.1)
        away = False
        batch = await bench.ended(batch_id)
    assert batch.request_counts.completed == 20
    assert set(endpoint.asked.values()) == {1}


async def test_every_step_may_be_repeated_after_a_crash(
    bench: BatchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of the batch's record is made to fail once, as if the runner had died there."""
    batch_id = await bench.submit(jsonl([chat_line(f"c{number}") for number in range(3)]))
    note = (await bench.place.catalog.open_batches())[0]
    place, crashes = bench.place, 0
    honest = place.catalog.change_batch

    async def crash_before(*arguments: Any) -> BatchRecord:
        nonlocal crashes
        crashes += 1
        if crashes % 2:
            raise StoreUnavailable("died before the write")
        return await honest(*arguments)

    async def crash_after(*arguments: Any) -> BatchRecord:
        nonlocal crashes
        crashes += 1
        record = await honest(*arguments)
        if crashes % 2 == 0:
            raise StoreUnavailable("died after the write")
        return record

    for round_number, crashing in enumerate([crash_before, crash_after] * 8):
        monkeypatch.setattr(place.catalog, "change_batch", crashing)
        with contextlib.suppress(StoreUnavailable):
            await Progress(place, f"runner-{round_number}").step(note)
        for delivery in await bench.stores.lines.lease("r", 10, 60):
            await bench.stores.lines.complete("r", delivery, LineResult(b"{}"))
    batch = await bench.client.batches.retrieve(batch_id)
    assert crashes > 4
    assert batch.status == "completed"
    assert len(await bench.lines_of(batch.output_file_id)) == 3
    assert await bench.place.catalog.open_batches() == []
    assert len(list(bench.directory.iterdir())) == 2
