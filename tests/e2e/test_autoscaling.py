"""The autoscaler on a real burst: one worker becomes two, and one again."""

from __future__ import annotations

import concurrent.futures
import threading

import httpx
import pytest

from tests.e2e.fleet import RunningCluster, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


def test_a_burst_makes_a_second_worker_and_its_end_removes_it(
    scaling_cluster: RunningCluster,
) -> None:
    cluster = scaling_cluster
    assert len(cluster.ready("llama-demo")) == 1
    stop = threading.Event()
    failures: list[str] = []

    def keep_busy(number: int) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            text = f"{number} {turn} " + "many words of a long prompt " * 60
            body = {
                "model": "llama-demo",
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 24,
                "ignore_eos": True,
            }
            answer = httpx.post(f"{cluster.url}/v1/chat/completions", json=body, timeout=120)
            if answer.status_code not in (200, 429):
                failures.append(answer.text)

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        busy = [pool.submit(keep_busy, number) for number in range(24)]
        try:
            wait_until(lambda: len(cluster.ready("llama-demo")) == 2, within_s=150)
        finally:
            stop.set()
        for one in busy:
            one.result(timeout=120)
    assert not failures
    wait_until(lambda: len(cluster.ready("llama-demo")) == 1, within_s=120)
    assert "autoscaler" in cluster.rhizome("status")
