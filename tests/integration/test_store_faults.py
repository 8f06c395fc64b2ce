"""The stores when their server is wrong, slow, frozen or full."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from redis.crc import key_slot

from cluster.local.ports import free_port
from rhizome.errors import PortInUse, SettingsError, StoreUnavailable, StoreUnreachable
from rhizome.settings.tree import RedisSettings
from rhizome.stores.lines import Line, LineResult
from rhizome.stores.open import Stores, open_stores
from rhizome.stores.redis.link import RedisLink
from rhizome.stores.valkey import EmbeddedValkey
from tests.support.processes import living
from tests.support.valkey import settings_for
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedValkey]:
    """A server of the test's own, to be maltreated."""
    own = EmbeddedValkey(tmp_path / "valkey")
    await own.start()
    yield own
    await own.stop()


_Opened = tuple[Stores, RedisLink]


@pytest.fixture
async def stores_and_link(valkey_url: str) -> AsyncIterator[_Opened]:
    settings = settings_for(valkey_url)
    opened, link = await open_stores(settings), RedisLink(valkey_url, settings)
    yield opened, link
    await link.close()
    await opened.close()


async def _command(server: EmbeddedValkey, *command: str) -> None:
    link = RedisLink(server.url, settings_for(server.url))
    await link.call(*command)
    await link.close()


async def test_a_frozen_server_costs_one_deadline_and_comes_back(
    server: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(server.url, command_timeout_s=1.0, connections_max=3)
    stores = await open_stores(settings)
    os.kill(server.pid, signal.SIGSTOP)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        started_s = time.monotonic()
        failures = await asyncio.gather(
            *(stores.registry.workers() for _ in range(10)), return_exceptions=True
        )
        assert {type(failure) for failure in failures} == {StoreUnavailable}
        assert time.monotonic() - started_s < 3.5, "in turns on three connections it would be four"
    os.kill(server.pid, signal.SIGCONT)

    async def back() -> bool:
        try:
            await stores.ping()
        except StoreUnavailable:
            return False
        return True

    await eventually(back)
    assert await stores.registry.workers() == []
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "is unavailable" in text]) == 1
    assert len([text for text in said if "is back" in text]) == 1
    await stores.close()


async def test_a_cancelled_command_does_not_spoil_its_connection(valkey_url: str) -> None:
    stores = await open_stores(settings_for(valkey_url, connections_max=1))
    await stores.documents.create("file", "f1", b"body")
    for delay_s in (0, 0.0001, 0.0003, 0.001):
        reading = asyncio.ensure_future(stores.registry.workers())
        await asyncio.sleep(delay_s)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert await stores.documents.get("file", "f1") == (1, b"body")
    await stores.close()


async def test_a_cancellation_ends_a_task_wherever_its_command_is(valkey_url: str) -> None:
    link = RedisLink(valkey_url, settings_for(valkey_url))

    async def ask_for_ever() -> None:
        while True:
            await link.call("PING")

    for steps in range(100):
        asking = asyncio.ensure_future(ask_for_ever())
        for _ in range(steps % 20):
            await asyncio.sleep(0)
        asking.cancel()
        _, late = await asyncio.wait({asking}, timeout=20)
        assert not late
        assert asking.cancelled()
    await link.close()


async def test_a_wrong_password_is_said_without_the_password(server: EmbeddedValkey) -> None:
    url = f"redis://:not-the-password@127.0.0.1:{server.port}/0"
    with pytest.raises(StoreUnreachable, match="refuses our credentials") as caught:
        await open_stores(settings_for(url))
    assert "password" in caught.value.advice
    shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.advice}"
    assert "not-the-password" not in shown


async def test_nobody_at_the_address_is_unreachable_at_once(server: EmbeddedValkey) -> None:
    url, started_s = server.url, time.monotonic()
    await server.stop()
    with pytest.raises(StoreUnreachable, match="cannot be reached"):
        await open_stores(settings_for(url))
    assert time.monotonic() - started_s < 5


async def test_an_invalid_url_is_a_settings_error_without_the_password() -> None:
    for url in ("http://:pass-word@127.0.0.1:1/", "redis://:pass-word@127.0.0.1:port/0"):
        with pytest.raises(SettingsError) as caught:
            await open_stores(RedisSettings.model_validate({"url": url}))
        assert "pass-word" not in f"{caught.value!r} {caught.value.__cause__!r}"


async def test_a_server_that_evicts_is_refused(server: EmbeddedValkey) -> None:
    await _command(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnreachable, match="allkeys-lru") as caught:
        await open_stores(settings_for(server.url))
    assert "noeviction" in caught.value.advice


async def test_a_server_without_persistence_is_warned_about(
    server: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    await _command(server, "CONFIG", "SET", "appendonly", "no")
    stores = await open_stores(settings_for(server.url))
    assert "append-only" in caplog.text
    await stores.close()


async def test_a_replica_is_refused_at_the_start_and_its_error_translated_later(
    server: EmbeddedValkey,
) -> None:
    stores = await open_stores(settings_for(server.url))
    await _command(server, "REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailable, match="replica"):
        await stores.documents.create("file", "f1", b"")
    with pytest.raises(StoreUnreachable, match="replica"):
        await open_stores(settings_for(server.url))
    await stores.close()


async def test_a_full_server_refuses_writes_and_loses_nothing(server: EmbeddedValkey) -> None:
    stores = await open_stores(settings_for(server.url))
    line = Line(batch_id="b1", index=0, custom_id="c", url="/v1/completions", body=b"{}")
    await stores.lines.enqueue("b1", [line])
    (delivery,) = await stores.lines.lease("r1", 1, 60)
    await _command(server, "CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="out of memory"):
        await stores.lines.complete("r1", delivery, LineResult(b"done"))
    await _command(server, "CONFIG", "SET", "maxmemory", "0")
    assert await stores.lines.depth() == 1
    assert await stores.lines.complete("r1", delivery, LineResult(b"done"))
    await stores.close()


async def test_unreadable_records_are_skipped_and_said_once(
    valkey_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(valkey_url)
    stores, link = await open_stores(settings), RedisLink(valkey_url, settings)
    for name in ("workers", "specs", "targets"):
        await link.call("HSET", link.key(name), "bad", b"\xff not a record")
    await link.call("LPUSH", link.key("lines", "dead"), b"\xc1")
    for _ in range(2):
        assert await stores.registry.workers() == []
        assert await stores.desired.specs() == {}
        assert await stores.desired.targets() == {}
        assert await stores.lines.dead_letters(10) == []
    assert len([one for one in caplog.records if "unreadable" in one.getMessage()]) == 4
    await link.close()
    await stores.close()


async def test_an_unreadable_line_leaves_the_queue(valkey_url: str) -> None:
    settings = settings_for(valkey_url)
    stores, link = await open_stores(settings), RedisLink(valkey_url, settings)
    await link.call("XADD", link.key("lines"), "*", "line", b"\xc1")
    assert await stores.lines.lease("r1", 5, 60) == []
    assert await stores.lines.depth() == 0
    await link.close()
    await stores.close()


async def test_all_keys_of_a_namespace_share_one_slot(stores_and_link: _Opened) -> None:
    stores, link = stores_and_link
    line = Line(batch_id="b1", index=0, custom_id="c", url="/v1/completions", body=b"{}")
    await stores.lines.enqueue("b1", [line])
    await stores.documents.create("file", "f1", b"")
    await stores.lease.acquire("leader", "c1", 60)
    await stores.desired.request_drain("w1", 60)
    prefix = link.key("")[:-1].encode()
    keys = await link.call("KEYS", prefix + b"*")
    assert len(keys) >= 9
    slots = {key_slot(key) for key in keys}
    assert len(slots) == 1


async def test_the_embedded_server_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / 'a directory with "quotes"'
    for expected in (None, (1, b"kept")):
        server = EmbeddedValkey(directory)
        await server.start()
        settings = settings_for(server.url, namespace="same")
        stores = await open_stores(settings)
        assert await stores.documents.get("file", "f1") == expected
        await stores.documents.create("file", "f1", b"kept")
        await stores.close()
        await server.stop()
        assert not server.running()


def test_the_embedded_server_keeps_its_password_to_itself(server: EmbeddedValkey) -> None:
    password = server.url.split("@")[0].removeprefix("redis://:")
    process = psutil.Process(server.pid)
    assert password not in " ".join(process.cmdline())
    assert password not in " ".join(process.environ().values())
    (configuration,) = Path(process.cwd()).glob("valkey.conf")
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
    assert stat.S_IMODE(configuration.parent.stat().st_mode) == 0o700
    listening = {one.laddr.ip for one in process.net_connections() if one.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


async def test_a_taken_port_that_was_asked_for_is_said(
    server: EmbeddedValkey, tmp_path: Path
) -> None:
    with pytest.raises(PortInUse, match=str(server.port)):
        await EmbeddedValkey(tmp_path / "second", server.port).start()


async def test_a_free_port_lost_to_another_is_replaced_and_then_kept(
    server: EmbeddedValkey, tmp_path: Path
) -> None:
    free = [free_port("127.0.0.1", frozenset({server.port})) for _ in range(2)]
    offers = iter([server.port, *free])
    second = EmbeddedValkey(tmp_path / "second", free_port=lambda: next(offers))
    await second.start()
    url = second.url
    assert second.port in free
    await second.stop()
    await second.start()
    assert second.url == url
    await second.stop()


async def test_the_embedded_server_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from rhizome.stores.valkey import EmbeddedValkey\n"
        "async def main():\n"
        "    server = EmbeddedValkey(pathlib.Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    server = psutil.Process(int(await parent.stdout.readline()))
    assert living([server])
    parent.kill()
    await parent.wait()
    await eventually(lambda: not living([server]))
