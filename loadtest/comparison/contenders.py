"""The routers that are compared, and how each is started in front of a fleet.

Every contender gets what its own documentation asks for and its defaults for the rest: where the
workers are, which policy, and where KV events come from if it can use them.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import get_args

from loadtest.comparison.peers import PEERS, installed_peer
from rhizome import __version__
from rhizome.errors import SettingsError
from rhizome.settings.tree import PolicyName

HOST = "127.0.0.1"
APPROXIMATE = "approximate"
"""A mode of Rhizome's: without events and without a tokenizer."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where one worker of the fleet is reached."""

    url: str
    events: str
    """The ZMQ endpoint of its KV events."""
    replay: str
    topic: str = ""


@dataclass(frozen=True, slots=True)
class FleetPlace:
    """A fleet as a router is told of it."""

    model: str
    model_directory: str
    block_size: int
    workers: tuple[WorkerPlace, ...]


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the router is to listen."""

    api: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Contender:
    """One router under one policy."""

    system: str
    policy: str

    @property
    def name(self) -> str:
        return f"{self.system}/{self.policy}"

    @property
    def version(self) -> str:
        return PEERS[self.system].version if self.system in PEERS else __version__


Command = Callable[[Contender, FleetPlace, Ports, Path], list[str]]


@dataclass(frozen=True)
class System:
    """A router program with all the policies that it has for plain workers."""

    policies: tuple[str, ...]
    command: Command


def contender(name: str) -> Contender:
    """`system/policy`; raises `SettingsError` naming the nearest."""
    system, _, policy = name.partition("/")
    known = [f"{one}/{its}" for one, facts in SYSTEMS.items() for its in facts.policies]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise SettingsError(
            f"there is no contender {name!r}; did you mean {nearest[0]!r}?",
            advice=f"Known are {', '.join(known)}.",
        )
    return Contender(system, policy)


def prepare(contenders: Sequence[Contender], peers: Path) -> Mapping[str, Path]:
    """The program of each system that is compared, installed if need be."""
    return {
        one.system: installed_peer(PEERS[one.system], peers)
        for one in contenders
        if one.system in PEERS
    }


def command_of(
    one: Contender, fleet: FleetPlace, ports: Ports, programs: Mapping[str, Path]
) -> list[str]:
    """What to start."""
    return SYSTEMS[one.system].command(
        one, fleet, ports, programs.get(one.system, Path(sys.executable))
    )


def _rhizome(one: Contender, fleet: FleetPlace, ports: Ports, program: Path) -> list[str]:
    command = [str(program), "-m", "rhizome.cli.main", "router", "--allow-anonymous"]
    policy, _, mode = one.policy.partition("-")
    command += ["--policy", policy]
    if mode != APPROXIMATE:
        command += ["--tokenizer", fleet.model_directory]
    command += ["--host", HOST, "--port", str(ports.api), "--metrics-port", str(ports.metrics)]
    for worker in fleet.workers:
        topic = f",topic={worker.topic}" if worker.topic else ""
        said = f"{worker.url},events={worker.events},replay={worker.replay}{topic}"
        if mode == APPROXIMATE:
            said = f"{worker.url},events=off,tokenizer=off"
        command += ["--worker", said]
    return command


def _smg(one: Contender, fleet: FleetPlace, ports: Ports, program: Path) -> list[str]:
    command = [str(program), "launch", "--policy", one.policy, "--backend", "vllm"]
    command += ["--host", HOST, "--port", str(ports.api)]
    command += ["--prometheus-host", HOST, "--prometheus-port", str(ports.metrics)]
    command += ["--worker-startup-check-interval", "1", "--log-level", "warn"]
    # It asks for the workers' loads every 10 s, and prefers those whose load it knows: until the
    # second asking most of a new fleet is left idle, which would be all of a short run.
    command += ["--load-monitor-interval", "1"]
    return [*command, "--worker-urls", *(worker.url for worker in fleet.workers)]


def _vllm_router(one: Contender, fleet: FleetPlace, ports: Ports, program: Path) -> list[str]:
    command = [str(program), "--policy", one.policy, "--host", HOST, "--port", str(ports.api)]
    command += ["--prometheus-host", HOST, "--prometheus-port", str(ports.metrics)]
    command += ["--worker-startup-check-interval", "1", "--log-level", "warning"]
    if one.policy == "kv_aware":
        command += ["--kv-event-model", fleet.model]
        command += ["--kv-event-block-size", str(fleet.block_size)]
        for worker in fleet.workers:
            command += ["--kv-event-source", f"{worker.url}={worker.events}"]
            command += ["--kv-event-replay-source", f"{worker.url}={worker.replay}"]
    return [*command, "--worker-urls", *(worker.url for worker in fleet.workers)]


SYSTEMS: Mapping[str, System] = MappingProxyType(
    {
        "rhizome": System(
            (*get_args(PolicyName), f"cost-{APPROXIMATE}"),
            _rhizome,
        ),
        "smg": System(
            (
                "cache_aware",
                "least_load",
                "power_of_two",
                "prefix_hash",
                "consistent_hashing",
                "manual",
                "passthrough",
                "round_robin",
                "random",
            ),
            _smg,
        ),
        "vllm-router": System(
            (
                "cache_aware",
                "kv_aware",
                "power_of_two",
                "consistent_hash",
                "sticky_least_loaded",
                "round_robin",
                "random",
            ),
            _vllm_router,
        ),
    }
)
DEFAULT_CONTENDERS = (
    "rhizome/cost",
    "smg/cache_aware",
    "vllm-router/cache_aware",
    "vllm-router/kv_aware",
    "rhizome/least_loaded",
    "rhizome/round_robin",
)
CONTROL = "rhizome/round_robin"
"""Whose knee the load levels are shares of."""
