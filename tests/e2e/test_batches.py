"""A batch through real workers, its runner killed on the way: every line has one result."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest

from tests.e2e.fleet import RunningCluster, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

LINES = 200


def _input() -> bytes:
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "llama-demo",
                "max_tokens": 4,
                "messages": [{"role": "user", "content": f"Say {number}."}],
            },
        }
        for number in range(LINES)
    ]
    return "\n".join(json.dumps(line) for line in lines).encode()


def test_a_batch_survives_its_runner_being_killed(cluster: RunningCluster) -> None:
    client = cluster.openai
    file = client.files.create(file=("lines.jsonl", io.BytesIO(_input())), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    def completed() -> int:
        counts = client.batches.retrieve(batch.id).request_counts
        return counts.completed if counts is not None else 0

    wait_until(lambda: completed() >= LINES // 10, within_s=120)
    runner = cluster.pid_of("batch")
    os.kill(runner, signal.SIGKILL)
    killed_after = completed()
    wait_until(lambda: client.batches.retrieve(batch.id).status == "completed", within_s=240)
    assert cluster.pid_of("batch") != runner
    ended = client.batches.retrieve(batch.id)
    assert ended.request_counts is not None
    assert ended.request_counts.failed == 0
    assert ended.request_counts.completed == LINES > killed_after
    assert ended.output_file_id is not None
    results = [
        json.loads(line) for line in client.files.content(ended.output_file_id).text.splitlines()
    ]
    assert sorted(result["custom_id"] for result in results) == sorted(
        f"line-{number}" for number in range(LINES)
    )
    assert all(result["response"]["status_code"] == 200 for result in results)
    assert all(result["response"]["body"]["usage"]["completion_tokens"] for result in results)
