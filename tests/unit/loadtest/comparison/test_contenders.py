from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from loadtest.comparison.contenders import (
    DEFAULT_CONTENDERS,
    FleetPlace,
    Ports,
    WorkerPlace,
    command_of,
    contender,
)
from rhizome.errors import SettingsError
from router.discovery.static_worker import parse_static_workers

WORKERS = tuple(
    WorkerPlace(
        f"http://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}", f"tcp://127.0.0.1:{port + 2}"
    )
    for port in (9000, 9010)
)
PLACE = FleetPlace("m", "/models/m", 16, WORKERS)


@pytest.mark.parametrize("name", DEFAULT_CONTENDERS)
def test_every_contender_is_told_its_policy_and_all_workers(name: str) -> None:
    one = contender(name)
    programs = {one.system: Path("/peers/program")}
    command = command_of(one, PLACE, Ports(8000, 9100), programs)
    assert command[0] == "/peers/program"
    assert command[command.index("--policy") + 1] == one.policy
    assert all(any(worker.url in part for part in command) for worker in WORKERS)
    assert "8000" in command


def test_a_router_that_asks_for_loads_does_so_within_the_time_that_a_run_gives_it() -> None:
    command = command_of(contender("smg/cache_aware"), PLACE, Ports(1, 2), {})
    assert command[command.index("--load-monitor-interval") + 1] == "1"


def test_only_contenders_that_use_events_are_told_where_they_are() -> None:
    def has_events(name: str) -> bool:
        command = command_of(contender(name), PLACE, Ports(1, 2), {})
        return any(WORKERS[0].events in part for part in command)

    assert has_events("vllm-router/kv_aware")
    assert has_events("rhizome/cost")
    assert not has_events("vllm-router/cache_aware")
    assert not has_events("smg/cache_aware")


def test_our_own_router_understands_the_workers_it_is_told() -> None:
    command = command_of(contender("rhizome/cost"), PLACE, Ports(1, 2), {})
    told = tuple(command[place + 1] for place, part in enumerate(command) if part == "--worker")
    assert [worker.events for worker in parse_static_workers(told)] == [
        worker.events for worker in WORKERS
    ]


def test_an_unknown_contender_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="smg/cache_aware"):
        contender("smg/cache-aware")


def test_the_approximate_mode_is_told_of_neither_events_nor_tokenizer() -> None:
    one = contender("rhizome/cost-approximate")
    command = command_of(one, PLACE, Ports(1, 2), {})
    assert command[command.index("--policy") + 1] == "cost"
    assert "--tokenizer" not in command
    assert all(
        said.endswith(",events=off,tokenizer=off")
        for flag, said in pairwise(command)
        if flag == "--worker"
    )
