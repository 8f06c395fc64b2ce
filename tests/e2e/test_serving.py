"""The main job on real parts: conversations meet the worker that holds their prefix."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from rhizome.fleet.records import WorkerState
from tests.e2e.fleet import RunningCluster, engine_metric, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

_fresh = itertools.count()
SYSTEM = "You are a patient guide who answers in short and simple sentences. " * 12


def fresh(text: str) -> str:
    """The text with a beginning that nobody has sent before."""
    return f"{time.time_ns()} {next(_fresh)} {text}"


def chat(cluster: RunningCluster, messages: list[dict[str, Any]], **fields: Any) -> httpx.Response:
    body = {"model": "llama-demo", "messages": messages, "max_tokens": 8, **fields}
    answer = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def cached(answer: httpx.Response) -> int:
    return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] or 0)


def predicted(answer: httpx.Response) -> int:
    return int(answer.headers["x-rhizome-prefix-tokens"])


def test_the_second_turn_meets_the_worker_that_holds_the_first(cluster: RunningCluster) -> None:
    create = cluster.openai.chat.completions.with_raw_response.create
    for number in range(4):
        messages: list[Any] = [
            {"role": "system", "content": fresh(SYSTEM)},
            {"role": "user", "content": f"Tell me story number {number}."},
        ]
        first = create(model="llama-demo", messages=messages, max_tokens=24)
        said = first.parse().choices[0].message.content or ""
        messages.append({"role": "assistant", "content": said})
        messages.append({"role": "user", "content": "And then?"})
        second = create(model="llama-demo", messages=messages, max_tokens=24)
        assert second.headers["x-rhizome-worker"] == first.headers["x-rhizome-worker"]
        usage = second.parse().usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert (usage.prompt_tokens_details.cached_tokens or 0) >= 96


def test_different_conversations_spread_over_both_workers(cluster: RunningCluster) -> None:
    ready = {worker.worker_id for worker in cluster.ready("llama-demo")}
    assert len(ready) >= 2
    seen = {
        chat(cluster, [{"role": "user", "content": fresh(SYSTEM)}]).headers["x-rhizome-worker"]
        for _ in range(16)
    }
    assert seen == ready


def test_the_mixture_of_experts_model_answers(cluster: RunningCluster) -> None:
    answer = cluster.openai.completions.create(
        model="mixtral-demo",
        prompt="Once upon a time",
        max_tokens=12,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert {model.id for model in cluster.openai.models.list()} >= {"llama-demo", "mixtral-demo"}


def _pairs() -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Kinds of prompts: what is sent first, and what is sent then."""
    kinds: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = []
    for number in range(4):
        base = fresh("the quick brown fox runs over the hills and far away " * (4 + 9 * number))
        user = [{"role": "user", "content": base}]
        kinds.append((f"plain-{number}", user, user))
        longer = [
            *user,
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Go"},
        ]
        kinds.append((f"extended-{number}", user, longer))
        half = base[: len(base) // 2]
        kinds.append((f"half-{number}", user, [{"role": "user", "content": half + " otherwise"}]))
        system = {"role": "system", "content": fresh(SYSTEM)}
        kinds.append(
            (
                f"system-{number}",
                [system, {"role": "user", "content": f"First question {number}"}],
                [system, {"role": "user", "content": f"Another matter {number}"}],
            )
        )
        marks = fresh("Ünïcödé 漢字 かな 한글 العربية 🙂🚀 ß €\n\t" * (5 + 5 * number))
        text = [{"role": "user", "content": marks}]
        kinds.append((f"unicode-{number}", text, [*text, {"role": "user", "content": "🙂"}]))
        parts = [{"role": "user", "content": [{"type": "text", "text": fresh(SYSTEM)}]}]
        kinds.append((f"parts-{number}", parts, parts))
    return kinds


def test_predicted_equals_actual_cached_tokens_on_varied_prompts(cluster: RunningCluster) -> None:
    compared: list[tuple[str, int, int]] = []
    for kind, first, then in _pairs():
        for step, messages in (("first", first), ("then", then)):
            answer = chat(cluster, messages, max_tokens=2)
            compared.append((f"{kind}/{step}", predicted(answer), cached(answer)))
    wrong = [row for row in compared if row[1] != row[2]]
    assert not wrong
    assert sum(1 for _, _, actual in compared if actual > 0) >= 20


def test_a_completion_of_token_ids_is_predicted_too(cluster: RunningCluster) -> None:
    ids = [5 + (time.time_ns() + 31 * number) % 4000 for number in range(200)]
    body = {"model": "llama-demo", "prompt": ids, "max_tokens": 2}
    for expected in (0, 192):
        answer = httpx.post(f"{cluster.url}/v1/completions", json=body, timeout=60)
        assert predicted(answer) == cached(answer) == expected


def test_streaming_equals_not_streaming_for_a_seed(cluster: RunningCluster) -> None:
    messages: Any = [{"role": "user", "content": fresh("Sing to me.")}]
    fields: dict[str, Any] = {"seed": 7, "temperature": 0.8, "max_tokens": 40}
    whole = chat(cluster, messages, ignore_eos=True, **fields).json()
    stream = cluster.openai.chat.completions.create(
        model="llama-demo",
        messages=messages,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        **fields,
    )
    pieces, usage = [], None
    for chunk in stream:
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len(pieces) > 5
    assert usage is not None
    assert usage.completion_tokens == 40


def test_a_client_that_leaves_stops_its_engine_within_two_seconds(cluster: RunningCluster) -> None:
    body = {
        "model": "llama-demo",
        "messages": [{"role": "user", "content": fresh("Never stop.")}],
        "max_tokens": 3500,
        "ignore_eos": True,
    }
    for stream in (True, False):
        with socket.create_connection(("127.0.0.1", int(cluster.url.rsplit(":", 1)[1]))) as raw:
            content = httpx.Request("POST", cluster.url, json={**body, "stream": stream}).content
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
                f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
            )
            raw.sendall(head.encode() + content)
            wait_until(lambda: _running(cluster) == 1, within_s=10)
        left_at = time.monotonic()
        wait_until(lambda: _running(cluster) == 0, within_s=10)
        assert time.monotonic() - left_at < 2.5, "two seconds, and the time to look"


def _running(cluster: RunningCluster) -> float:
    return sum(
        engine_metric(worker, "vllm:num_requests_running")
        + engine_metric(worker, "vllm:num_requests_waiting")
        for worker in cluster.ready("llama-demo")
    )


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"max_tokens": 100_000}, 400),
        ({"messages": [{"role": "user", "content": "word " * 6000}]}, 400),
        ({"messages": []}, 400),
        ({"messages": "hello"}, 400),
        ({"temperature": "hot"}, 400),
        ({"model": "nobody"}, 404),
    ],
)
def test_bad_requests_are_refused_and_nothing_else_breaks(
    cluster: RunningCluster, fields: dict[str, Any], status: int
) -> None:
    body = {"model": "llama-demo", "messages": [{"role": "user", "content": "Hi"}], **fields}
    answer = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert chat(cluster, [{"role": "user", "content": "Still there?"}]).status_code == 200


def test_an_engine_refuses_whoever_has_not_its_key(cluster: RunningCluster) -> None:
    for worker in cluster.workers():
        for path in ("/v1/models", "/metrics", "/load", "/version"):
            assert httpx.get(worker.url + path, timeout=10).status_code == 401


def test_a_killed_worker_is_replaced_and_nobody_notices(cluster: RunningCluster) -> None:
    victim = cluster.ready("llama-demo")[0]
    assert victim.pid is not None
    failures: list[str] = []
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            try:
                chat(cluster, [{"role": "user", "content": fresh("Are you there?")}], max_tokens=2)
            except (AssertionError, httpx.HTTPError) as error:
                failures.append(repr(error))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        os.kill(victim.pid, signal.SIGKILL)
        answer = chat(cluster, [{"role": "user", "content": fresh("And now?")}])
        assert answer.headers["x-rhizome-worker"] != victim.worker_id
        wait_until(lambda: not _is_ready(cluster, victim.worker_id, victim.incarnation), 30)
        table = cluster.rhizome("status")
        assert victim.worker_id not in [
            line.split()[1] for line in table.splitlines() if " ready " in line and "│" in line
        ]
        wait_until(lambda: _is_back(cluster, victim.worker_id, victim.incarnation), 120)
    finally:
        done.set()
        asking.join(60)
    assert not failures
    seen = {
        chat(cluster, [{"role": "user", "content": fresh(SYSTEM)}]).headers["x-rhizome-worker"]
        for _ in range(16)
    }
    assert victim.worker_id in seen, "the worker that came back gets requests again"


def _is_ready(cluster: RunningCluster, worker_id: str, incarnation: str) -> bool:
    worker = cluster.worker(worker_id)
    return (
        worker is not None
        and worker.incarnation == incarnation
        and worker.state is WorkerState.READY
    )


def _is_back(cluster: RunningCluster, worker_id: str, old_incarnation: str) -> bool:
    worker = cluster.worker(worker_id)
    return (
        worker is not None
        and worker.incarnation != old_incarnation
        and worker.state is WorkerState.READY
    )
