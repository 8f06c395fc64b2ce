"""A share of a run against a server whose timing is known."""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loadtest.bodies import Answers, BodyWriter
from loadtest.client.share import Share, share_of
from loadtest.plan import Deadlines, Plan
from loadtest.prompts import PromptWriter
from loadtest.records import ErrorKind, ProcessFacts, RequestRecord
from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api, Role, Segment, TracedRequest
from loadtest.workloads.shaping import Shape
from rhizome.clock import SystemClock
from rhizome.tasks import Tasks
from tests.support.load_models import PacedServer, running_paced
from tests.support.waiting import eventually

CHOICE, SHAPE = Choice(name="sessions"), Shape(duration_s=1.0)


def request(number: int, at_s: float, output_len: int = 5) -> TracedRequest:
    segments = (Segment(1, 30, Role.SYSTEM), Segment(100 + number, 10))
    return TracedRequest(number, at_s, f"s{number}", "t", segments, output_len, 900 + number)


def requests(count: int, every_s: float) -> list[TracedRequest]:
    return [request(number, number * every_s) for number in range(count)]


def plan(url: str, **fields: Any) -> Plan:
    return Plan(
        url=url, model="m", tokenizer="", choice=CHOICE, shape=SHAPE, api=Api.CHAT, **fields
    )


def share(writer: PromptWriter, plan: Plan, answers: Answers | None = None) -> Share:
    clock = SystemClock()
    bodies = BodyWriter(writer, "m", plan.api, answers=answers)
    return Share(plan, bodies, clock, clock.monotonic_s())


async def run(
    writer: PromptWriter, plan: Plan, sent: list[TracedRequest]
) -> tuple[list[RequestRecord], ProcessFacts]:
    running = share(writer, plan)
    facts = await running.run(iter(sent))
    return sorted(running.records, key=lambda record: record.number), facts


async def test_times_are_what_the_server_made_them(writer: PromptWriter) -> None:
    async with running_paced(PacedServer(first_s=0.1, gap_s=0.04)) as server:
        records, facts = await run(writer, plan(server.url), requests(12, 0.03))
    assert [record.error for record in records] == [None] * 12
    assert statistics.median(record.ttft_ms or 0 for record in records) == pytest.approx(
        100, abs=60
    )
    assert statistics.median(record.tpot_ms or 0 for record in records) == pytest.approx(40, abs=25)
    gaps = np.frombuffer(b"".join(record.gaps_ms for record in records), "<f4")
    assert len(gaps) == 12 * 4
    assert {record.worker for record in records} == {"w0"}
    assert records[3].request_id == "load-3"
    assert {record.cached_tokens for record in records} == {3}
    assert facts.send_lag_ms_max >= facts.send_lag_ms_p99 >= facts.send_lag_ms_p50 >= 0
    assert facts.cpu_share > 0


async def test_no_request_waits_for_another(writer: PromptWriter) -> None:
    async with running_paced(PacedServer(first_s=1.0, gap_s=0.0)) as server:
        running = share(writer, plan(server.url))
        await running.run(iter(requests(10, 0.02)))
    sent_s = [record.sent_s for record in running.records]
    assert max(sent_s) < 0.9, "all were sent before the first answer came"
    assert all(record.sent_s >= record.scheduled_s - 0.002 for record in running.records)


async def test_keys_go_to_their_tenants_and_the_rest(writer: PromptWriter) -> None:
    sent = [request(0, 0.0), replace(request(1, 0.0), tenant="other")]
    async with running_paced(PacedServer(first_s=0.0, gap_s=0.0)) as server:
        await run(writer, plan(server.url, keys={"t": "key-1", "": "key-2"}), sent)
    given = {one["x-request-id"]: one["authorization"] for one in server.headers}
    assert given == {"load-0": "Bearer key-1", "load-1": "Bearer key-2"}


async def test_a_real_answer_is_in_the_next_turn(writer: PromptWriter) -> None:
    first = request(0, 0.0)
    answer = Segment(first.answer_key, first.output_len, Role.ASSISTANT)
    second = replace(
        request(1, 0.6), segments=(*first.segments, answer, Segment(5, 3)), session="s0"
    )
    async with running_paced(PacedServer(first_s=0.0, gap_s=0.0)) as server:
        running = share(writer, plan(server.url, real_answers=True), Answers())
        facts = await running.run(iter([first, second]))
    assert server.bodies[1]["messages"][2]["content"] == " t0 t1 t2 t3 t4"
    assert (facts.answers_real, facts.answers_made_up) == (1, 0)


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (PacedServer(status=429), ErrorKind.HTTP_429),
        (PacedServer(status=500), ErrorKind.HTTP_5XX),
        (PacedServer(first_s=0.0, gap_s=0.0, end_after=2), ErrorKind.INCOMPLETE),
        (PacedServer(first_s=0.0, gap_s=0.0, error_after=2), ErrorKind.STREAM_ERROR),
    ],
)
async def test_a_failure_has_its_kind(
    writer: PromptWriter, server: PacedServer, kind: ErrorKind
) -> None:
    async with running_paced(server):
        records, _ = await run(writer, plan(server.url), requests(2, 0.0))
    assert [record.error for record in records] == [kind, kind]


async def test_a_dead_address_is_a_connect_error(writer: PromptWriter) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        records, _ = await run(writer, plan(url), requests(2, 0.0))
    assert [record.error for record in records] == [ErrorKind.CONNECT] * 2


async def test_silence_and_length_have_deadlines(writer: PromptWriter) -> None:
    async with running_paced(PacedServer(first_s=30.0)) as server:
        silent = plan(server.url, deadlines=Deadlines(silence_s=0.3))
        records, _ = await run(writer, silent, requests(1, 0.0))
        assert records[0].error is ErrorKind.SILENCE
    async with running_paced(PacedServer(first_s=0.0, gap_s=0.05)) as server:
        slow = plan(server.url, deadlines=Deadlines(total_s=0.4))
        records, _ = await run(writer, slow, [request(0, 0.0, output_len=2000)])
        assert records[0].error is ErrorKind.TIMEOUT
        assert records[0].first_s is not None


async def test_past_the_most_in_flight_nothing_is_sent(writer: PromptWriter) -> None:
    async with running_paced(PacedServer(first_s=0.5, gap_s=0.0)) as server:
        records, _ = await run(writer, plan(server.url, in_flight_max=2), requests(5, 0.0))
    kinds = [record.error for record in records]
    assert kinds == [None, None, *[ErrorKind.CLIENT_FULL] * 3]


async def test_a_stopped_run_keeps_what_is_known(writer: PromptWriter) -> None:
    def endless() -> Iterator[TracedRequest]:
        number = 0
        while True:
            yield request(number, number * 0.05, output_len=2 if number < 2 else 5000)
            number += 1

    async with running_paced(PacedServer(first_s=0.0, gap_s=0.01)) as server, Tasks("t") as tasks:
        running = share(writer, plan(server.url))
        ending = tasks.start("run", running.run(endless()))
        await eventually(lambda: running.moment().done >= 2 and running.moment().in_flight >= 2)
        running.stop()
        await asyncio.wait_for(ending, 5)
    kinds = {record.error for record in running.records}
    assert kinds == {None, ErrorKind.STOPPED}
    assert running.moment().in_flight == 0


def test_shares_are_whole_sessions_and_cover_everything() -> None:
    sent = [replace(request(number, 0.0), session=f"s{number % 7}") for number in range(70)]
    parts = [list(share_of(iter(sent), part, 3)) for part in range(3)]
    assert sum(map(len, parts)) == 70
    sessions = [{one.session for one in part} for part in parts]
    assert not sessions[0] & sessions[1]
    assert not sessions[1] & sessions[2]


def test_a_plan_survives_its_way_to_a_process(tmp_path: Path) -> None:
    given = plan("http://x:1", extra={"a": [1, None]}, keys={"": "k"}, warmup_s=2.0)
    assert msgspec.json.decode(msgspec.json.encode(given), type=Plan) == given
