"""Workers given by hand: what they say of themselves becomes a record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from rhizome.clock import SystemClock
from rhizome.fleet.records import EventSource, WorkerRecord
from rhizome.settings.tree import DiscoverySettings
from rhizome.tasks import Tasks
from router.discovery.asking import Asker, WorkerSilent
from router.discovery.describe import connectable, describe
from router.discovery.prober import Prober
from router.discovery.static import StaticDiscovery
from router.discovery.static_worker import parse_static_worker
from router.fleet import Fleet
from tests.support.waiting import eventually
from tests.unit.router.discovery.fake_engine import FakeEngine


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as one:
        yield one


async def described(session: aiohttp.ClientSession, text: str, looks: int = 0) -> WorkerRecord:
    worker = parse_static_worker(text)
    return await describe(worker, Asker(session, worker.url, worker.key, 5.0), looks)


async def test_the_record_is_what_the_engine_says(session: aiohttp.ClientSession) -> None:
    told = {
        "endpoint": "tcp://*:5557",
        "replay_endpoint": "tcp://0.0.0.0:5558",
        "topic": "kv",
        "publisher": "zmq",
    }
    async with FakeEngine(key="k", sources={"0": told}).serving() as url:
        record = await described(session, f"{url},key=k")
    assert (record.model, record.model_root, record.max_model_len) == ("m", "/models/m", 2048)
    assert record.adapters == ("lora",)
    assert (record.block_size, record.kv_blocks, record.data_parallel) == (32, 1000, 1)
    assert record.events == (
        EventSource(
            endpoint="tcp://127.0.0.1:5557", replay_endpoint="tcp://127.0.0.1:5558", topic="kv"
        ),
    )
    assert record.api_key == "k"
    assert "/" not in record.worker_id


async def test_endpoints_given_by_hand_are_used_for_every_rank(
    session: aiohttp.ClientSession,
) -> None:
    async with FakeEngine(ranks=2).serving() as url:
        record = await described(session, f"{url},events=tcp://h:5601,replay=tcp://h:5701")
    assert record.data_parallel == 2
    assert [source.endpoint for source in record.events] == ["tcp://h:5601", "tcp://h:5602"]
    assert [source.replay_endpoint for source in record.events] == ["tcp://h:5701", "tcp://h:5702"]


async def test_an_engine_without_events_has_none(session: aiohttp.ClientSession) -> None:
    engine = FakeEngine()
    async with engine.serving() as url:
        assert (await described(session, url)).events == ()
        engine.sources = {"0": {"publisher": "null", "endpoint": "tcp://*:1"}, "x": {}}
        assert (await described(session, url)).events == ()


async def test_the_incarnation_changes_with_the_process(session: aiohttp.ClientSession) -> None:
    engine = FakeEngine()
    async with engine.serving() as url:
        first = await described(session, url, looks=0)
        assert (await described(session, url, looks=1)).incarnation == first.incarnation
        engine.started = 1_700_000_001.0
        second = await described(session, url, looks=1)
        assert second.incarnation != first.incarnation
        engine.started = None
        unsaid = [(await described(session, url, looks=n)).incarnation for n in (0, 1)]
        assert unsaid[0] != unsaid[1]


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"data": [{}]}', b"x" * 2**21, b"[" * 100_000])
async def test_an_answer_of_nonsense_is_an_answer_of_nothing(
    session: aiohttp.ClientSession, answer: bytes
) -> None:
    async with FakeEngine(raw_models=answer).serving() as url:
        with pytest.raises(WorkerSilent):
            await described(session, url)


async def test_a_missing_key_is_said(session: aiohttp.ClientSession) -> None:
    async with FakeEngine(key="k").serving() as url:
        with pytest.raises(WorkerSilent, match="key="):
            await described(session, url)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp://*:1", "tcp://h:1"),
        ("tcp://0.0.0.0:1", "tcp://h:1"),
        ("tcp://[::]:1", "tcp://h:1"),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.1:1"),
        ("ipc:///tmp/x", "ipc:///tmp/x"),
    ],
)
def test_an_address_to_bind_to_becomes_one_to_connect_to(endpoint: str, expected: str) -> None:
    assert connectable(endpoint, "h") == expected


@asynccontextmanager
async def discovering(session: aiohttp.ClientSession, *texts: str) -> AsyncIterator[Fleet]:
    clock = SystemClock()
    fleet = Fleet(failures_to_suspend=2)
    workers = [parse_static_worker(text) for text in texts]
    static = StaticDiscovery(workers, fleet, session, clock, timeout_s=0.5)
    settings = DiscoverySettings(probe_interval_s=0.02, probe_timeout_s=0.5)
    prober = Prober(fleet, session, clock, settings, on_recovery=static.recheck)
    async with Tasks("test") as tasks:
        tasks.start("static", static.run())
        tasks.start("prober", prober.run())
        yield fleet


async def test_a_dead_worker_delays_no_other_and_joins_when_it_lives(
    session: aiohttp.ClientSession,
) -> None:
    late = FakeEngine()
    async with late.serving() as late_url:
        port = int(late_url.rpartition(":")[2])
    hanging = FakeEngine(hang=True)
    async with FakeEngine().serving() as url, hanging.serving() as hanging_url:
        async with discovering(session, late_url, hanging_url, url) as fleet:
            await eventually(lambda: len(fleet.records()) == 1)
            assert fleet.records()[0].url == url
            async with late.serving(port):
                await eventually(lambda: len(fleet.records()) == 2)


async def test_an_engine_restarted_in_place_is_a_new_incarnation(
    session: aiohttp.ClientSession,
) -> None:
    engine = FakeEngine()
    async with engine.serving() as url, discovering(session, url) as fleet:
        await eventually(lambda: bool(fleet.records()) and engine.asked.count("/metrics") > 2)
        first = fleet.records()[0]
        engine.started = 1_700_000_099.0
        await eventually(lambda: fleet.records()[0].incarnation != first.incarnation)


async def test_a_recovery_without_a_start_time_is_a_new_incarnation(
    session: aiohttp.ClientSession,
) -> None:
    engine = FakeEngine(started=None)
    async with engine.serving() as url, discovering(session, url) as fleet:
        await eventually(lambda: len(fleet.records()) == 1)
        first = fleet.records()[0]
        engine.health = 503
        await eventually(lambda: list(fleet.eligible("m")) == [])
        engine.health = 200
        await eventually(lambda: fleet.records()[0].incarnation != first.incarnation)
        await eventually(lambda: len(list(fleet.eligible("m"))) == 1)


async def test_the_first_look_is_over_when_all_were_asked_and_one_has_answered(
    session: aiohttp.ClientSession,
) -> None:
    late = FakeEngine()
    async with late.serving() as late_url:
        port = int(late_url.rpartition(":")[2])
    async with discovering(session, late_url, "http://127.0.0.1:1") as fleet:
        assert fleet.is_looking
        async with late.serving(port):
            await eventually(lambda: not fleet.is_looking)
            assert fleet.records()


async def test_without_workers_given_by_hand_nothing_is_looked_for(
    session: aiohttp.ClientSession,
) -> None:
    async with discovering(session) as fleet:
        assert not fleet.is_looking
