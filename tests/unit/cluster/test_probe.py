from __future__ import annotations

import msgspec
from aiohttp import web

from cluster.probe import count_requests, in_flight
from rhizome.fleet.records import WorkerRecord, WorkerState

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 4.0
vllm:prompt_tokens_total{engine="0"} 9e+09
"""


def test_running_and_waiting_requests_of_all_ranks_are_counted_once() -> None:
    assert count_requests(PAGE) == 7


def test_unlabelled_series_count_and_a_page_without_them_is_unknown() -> None:
    assert count_requests("vllm:num_requests_running 3\n") == 3
    assert count_requests("up 1\n") is None
    assert count_requests("vllm:num_requests_running abc\n") is None


async def test_workers_that_do_not_answer_are_left_out() -> None:
    async def metrics(request: web.Request) -> web.Response:
        allowed = request.headers.get("Authorization") == "Bearer rzk-1"
        return web.Response(text=PAGE if allowed else "", status=200 if allowed else 401)

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    known = WorkerRecord(
        worker_id="m-0",
        incarnation="i",
        model="m",
        url=f"http://127.0.0.1:{port}",
        state=WorkerState.READY,
        api_key="rzk-1",
    )
    refused = msgspec.structs.replace(known, worker_id="m-1", api_key="wrong")
    dead = msgspec.structs.replace(known, worker_id="m-2", url="http://127.0.0.1:1")
    assert await in_flight([known, refused, dead], 2.0) == {"m-0": 7}
    await runner.cleanup()
