from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import zmq
import zmq.asyncio

from rhizome.wire.kv_events import decode_batch
from tests.support.engine_contract.engines import PROFILE, simulated
from tests.support.waiting import eventually
from workers.engine.simulated.server.words import Words
from workers.engine.simulated.server.worker import SimulatedWorker

IDS = list(range(300, 340))


async def complete(http: httpx.AsyncClient, headers: Any = None, **fields: Any) -> dict[str, Any]:
    body = {"prompt": IDS, "max_tokens": 8, "ignore_eos": True} | fields
    answer = await http.post("/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_continuation_is_what_was_still_to_come(http: httpx.AsyncClient) -> None:
    whole = (await complete(http, return_token_ids=True, max_tokens=30))["choices"][0]
    rest = await complete(http, prompt=IDS + whole["token_ids"][:11], max_tokens=19)
    head = await complete(http, max_tokens=11)
    assert head["choices"][0]["text"] + rest["choices"][0]["text"] == whole["text"]


async def test_what_is_said_is_tokenized_to_the_same_ids_again(
    http: httpx.AsyncClient, words: Words
) -> None:
    said = (await complete(http, return_token_ids=True, max_tokens=200))["choices"][0]
    assert words.renderer.text(said["text"]) == said["token_ids"]
    assert words.renderer.detokenize(said["token_ids"]) == said["text"]


async def test_without_a_limit_the_model_ends_by_itself(http: httpx.AsyncClient) -> None:
    answer = await complete(http, max_tokens=471, ignore_eos=False)
    again = await complete(http, max_tokens=471, ignore_eos=False)
    assert answer["choices"] == again["choices"]
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    found = (await http.post("/v1/chat/completions", json=chat)).json()
    assert found["choices"][0]["finish_reason"] in {"stop", "length"}


async def test_a_client_that_leaves_frees_the_engine(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    body = {"prompt": IDS, "max_tokens": 400, "ignore_eos": True, "stream": True}
    await http.post("/simulate/fault", json={"kind": "slow", "factor": 200})
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        await anext(answer.aiter_lines())
        assert worker.ranks[0].scheduler.running == 1
    await eventually(lambda: worker.in_flight == 0)
    scheduler = worker.ranks[0].scheduler
    await eventually(lambda: scheduler.running == 0 and scheduler.kv_used_blocks == 0)


async def test_every_path_but_health_wants_the_key(words: Words) -> None:
    async with simulated(words, api_key="sesame") as worker:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{worker.port}", timeout=30
        ) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.get("/metrics")).status_code == 401
            http.headers["authorization"] = "Bearer sesame"
            assert (await http.get("/metrics")).status_code == 200


async def test_ranks_have_schedulers_caches_metrics_and_events_of_their_own(words: Words) -> None:
    async with simulated(words, data_parallel=2) as worker:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{worker.port}", timeout=30
        ) as http:
            first = {"X-data-parallel-rank": "1"}
            await complete(http, first)
            hit = await complete(http, first)
            miss = await complete(http, {"X-data-parallel-rank": "0"})
            page = (await http.get("/metrics")).text
            sources = (await http.get("/kv_event_sources")).json()
    cached = [one["usage"]["prompt_tokens_details"]["cached_tokens"] for one in (hit, miss)]
    assert cached == [32, 0]
    assert 'vllm:prefix_cache_hits_total{engine="1",model_name="m"} 32.0' in page
    assert 'vllm:prefix_cache_hits_total{engine="0",model_name="m"} 0.0' in page
    assert sorted(sources) == ["0", "1"]
    batches = [decode_batch(one.kept[0][1]) for one in worker.publishers]
    assert [batch.data_parallel_rank for batch in batches] == [0, 1]


async def test_missed_batches_are_replayed_from_the_sequence_asked_for(
    http: httpx.AsyncClient, worker: SimulatedWorker
) -> None:
    for number in range(3):
        await complete(http, prompt=[500 + number] * 40, max_tokens=1)
    with zmq.asyncio.Context() as context:
        socket = context.socket(zmq.DEALER)
        socket.connect(worker.sources[0].replay_endpoint or "")
        await socket.send_multipart([b"", (1).to_bytes(8, "big")])
        answers = [await asyncio.wait_for(socket.recv_multipart(), 30) for _ in range(3)]
        socket.close(linger=0)
    assert [int.from_bytes(one[2], "big", signed=True) for one in answers] == [1, 2, -1]


async def test_priority_decides_who_is_admitted_first(words: Words) -> None:
    profile = PROFILE.model_copy(update={"policy": "priority", "max_num_seqs": 1})
    async with simulated(words, profile=profile, breakable=True) as worker:
        url = f"http://127.0.0.1:{worker.port}"
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            ended: list[int] = []

            async def ask(priority: int) -> None:
                await complete(http, priority=priority, max_tokens=60)
                ended.append(priority)

            await http.post("/simulate/fault", json={"kind": "hang"})
            asked = [asyncio.ensure_future(ask(priority)) for priority in (9, 0, 5, 1)]
            await eventually(lambda: worker.in_flight == 4)
            await http.post("/simulate/fault", json={"kind": "none"})
            await asyncio.gather(*asked)
    assert ended == [0, 1, 5, 9]


async def test_requests_on_one_connection_are_answered_in_their_order(
    worker: SimulatedWorker,
) -> None:
    body = json.dumps({"prompt": IDS, "max_tokens": 3}).encode()
    slow = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    slow += b"content-length: %d\r\n\r\n%b" % (len(body), body)
    last = b"GET /version HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(slow + last)
    answers = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answers.index(b"text_completion") < answers.index(b'{"version":"0.32.0"}')


@pytest.mark.parametrize(
    "sent",
    [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: " + b"x" * 70_000 + b"\r\n\r\n"],
    ids=["no HTTP", "long head"],
)
async def test_what_is_no_request_ends_the_connection(worker: SimulatedWorker, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    writer.write(sent)
    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_a_body_that_is_not_called_json_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/completions", content=b"{}", headers={"content-type": "text/a"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "Bad Request")


@pytest.mark.parametrize(
    "fields",
    [
        {"use_beam_search": True},
        {"structured_outputs": {"grammar": 'root ::= "a"'}},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_what_needs_a_model_is_refused_by_name(
    http: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    answer = await http.post("/v1/completions", json={"prompt": "a"} | fields)
    assert answer.status_code == 501
    assert answer.json()["error"]["param"] == next(iter(fields))


async def test_long_prompts_are_tokenized_beside_the_loop_with_the_same_end(
    words: Words,
) -> None:
    profile = PROFILE.model_copy(update={"max_model_len": 8192, "kv_blocks": 300})
    async with simulated(words, profile=profile) as worker:
        url = f"http://127.0.0.1:{worker.port}"
        async with httpx.AsyncClient(base_url=url, timeout=20) as http:
            prompt = "a river of words " * 1500
            answer = await complete(http, prompt=prompt, max_tokens=2)
            assert answer["usage"]["prompt_tokens"] == len(words.renderer.text(prompt))
            refused = await http.post("/v1/completions", json={"prompt": prompt * 9})
            assert refused.status_code == 400


async def test_bytes_that_are_no_text_are_said_all_the_same(
    http: httpx.AsyncClient, words: Words
) -> None:
    for forced in ([128], [129], [200], list(range(100, 256))):
        answer = await complete(http, allowed_token_ids=forced, max_tokens=100)
        assert answer["usage"]["completion_tokens"] == 100
