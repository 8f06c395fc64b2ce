"""The programs of a measurement: workers that cost next to nothing, and the routers before them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import psutil

from loadtest.comparison.peers import PEERS, installed_peer
from loadtest.comparison.processes import Program
from loadtest.overhead.mock import BLOCK_SIZE, MODEL
from rhizome import __version__

HOST = "127.0.0.1"
KEY = "overhead-key"
_PROBE_S = 2.0
_PROBES = 8
_IN_FLIGHT_MAX = 4096


@dataclass(frozen=True, slots=True)
class System:
    """One router in one mode."""

    name: str
    is_exact: bool = False
    """Whether it makes token ids of prompts."""
    processes: int = 1
    """Of Rhizome, behind one port."""

    @property
    def version(self) -> str:
        peer = PEERS.get(self.name.partition("/")[0])
        return peer.version if peer is not None else __version__


OURS = System("rhizome/approximate")
OURS_EXACT = System("rhizome/exact", is_exact=True)
SMG = System("smg/cache_aware")
VLLM_ROUTER = System("vllm-router/cache_aware")
VLLM_ROUTER_EXACT = System("vllm-router/kv_aware", is_exact=True)
SYSTEMS = (OURS, OURS_EXACT, SMG, VLLM_ROUTER, VLLM_ROUTER_EXACT)


class MeasuredProgram(Program):
    """A program whose CPU time is read as the scheduler counts it, in nanoseconds."""

    def cpu_s(self) -> float:
        """CPU time of all its threads that live, and of its children's."""
        total_ns = 0
        for process in self._family():
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(OSError, ValueError):  # a thread that ends meanwhile
                    total_ns += int((thread / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def resident_bytes(self) -> int:
        """Resident memory of it and its children."""
        return sum(process.memory_info().rss for process in self._family())

    def _family(self) -> list[psutil.Process]:
        process = psutil.Process(self._child.pid)
        return [process, *process.children(recursive=True)]


@dataclass(frozen=True, slots=True)
class Rig:
    """Where a run's programs are, and what they are made of."""

    directory: Path
    """For logs and settings."""
    model_directory: str
    """Of the tokenizer, for routers that make token ids."""
    peers: Path
    workers: tuple[int, ...]
    """Ports."""
    events: tuple[int, ...] = ()
    """Ports of KV events that never come."""


def worker_command(rig: Rig) -> list[str]:
    """Starts all workers in one process."""
    command = [sys.executable, "-m", "loadtest.overhead.mock", rig.model_directory]
    return [*command, *map(str, rig.workers)]


def router_command(system: System, rig: Rig, port: int, metrics: int) -> list[str]:
    """Starts a router with its defaults and a key for its clients where it has such."""
    name, _, policy = system.name.partition("/")
    urls = [f"http://{HOST}:{worker}" for worker in rig.workers]
    if name == "rhizome":
        return _rhizome(system, rig, port, metrics)
    command = [str(installed_peer(PEERS[name], rig.peers))]
    if name == "smg":
        command += ["launch", "--backend", "vllm", "--log-level", "warn"]
    else:
        command += ["--log-level", "warning"]
        if system.is_exact:
            command += _kv_events(rig, urls)
    command += ["--policy", policy, "--api-key", KEY, "--host", HOST, "--port", str(port)]
    command += ["--prometheus-host", HOST, "--prometheus-port", str(metrics)]
    return [*command, "--worker-startup-check-interval", "1", "--worker-urls", *urls]


async def is_ready(port: int) -> bool:
    """Whether a router takes requests for the model, in all of its processes as far as a few
    connections tell."""
    return all([await _answers(port) for _ in range(_PROBES)])


async def _answers(port: int) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    with suppress(aiohttp.ClientError, TimeoutError):
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_PROBE_S)) as session,
            session.post(
                f"http://{HOST}:{port}/v1/chat/completions",
                json=body,
                headers={"Authorization": f"Bearer {KEY}"},
            ) as answer,
        ):
            return answer.status == 200
    return False


def _rhizome(system: System, rig: Rig, port: int, metrics: int) -> list[str]:
    told = rig.directory / f"{system.name.replace('/', '-')}.yaml"
    tokenizer = rig.model_directory if system.is_exact else str(rig.directory / "none")
    room = {"in_flight_max_per_worker": _IN_FLIGHT_MAX}  # the others have no such bound
    settings = {"router": {"api_keys": [KEY], "admission": room}}
    told.write_text(msgspec.json.encode(settings).decode(), encoding="utf-8")
    command = [sys.executable, "-m", "rhizome.cli.main", "router", "--config", str(told)]
    command += ["--tokenizer", tokenizer, "--host", HOST, "--port", str(port)]
    command += ["--metrics-port", str(metrics), "--processes", str(system.processes)]
    for worker in rig.workers:
        command += ["--worker", f"http://{HOST}:{worker}"]
    return command


def _kv_events(rig: Rig, urls: Sequence[str]) -> list[str]:
    command = ["--kv-event-model", MODEL, "--kv-event-block-size", str(BLOCK_SIZE)]
    for url, port in zip(urls, rig.events, strict=True):
        command += ["--kv-event-source", f"{url}=tcp://{HOST}:{port}"]
    return command
