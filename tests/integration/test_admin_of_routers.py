"""Two router processes before simulated workers, asked and steered by the command."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cluster.local.ports import free_port
from rhizome.cli.errors import explain as tell
from rhizome.cli.main import application
from rhizome.errors import StartError
from rhizome.ids import hash_of
from rhizome.settings.load import environment_copy
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
RHIZOME = [sys.executable, "-m", "rhizome.cli.main"]
HOST = "127.0.0.1"


@dataclass(frozen=True)
class RouterProcess:
    url: str
    admin: str
    log: Path


@dataclass(frozen=True)
class Rig:
    routers: list[RouterProcess]
    workers: list[str]
    key_file: Path
    keys_file: Path
    directory: Path

    def post(self, router: RouterProcess, request_id: str, key: str = "alices") -> httpx.Response:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "tell me a story about the sea " * 20}],
            "max_tokens": 4,
            "ignore_eos": True,
            "stream": True,
        }
        headers = {"authorization": f"Bearer {key}", "x-request-id": request_id}
        url = f"{router.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=30)

    def command(self, *arguments: str, status: int = 0, key_file: Path | None = None) -> str:
        """What the command printed; it must end with `status`."""
        admins = [word for one in self.routers for word in ("--admin", one.admin)]
        words = [*arguments, *admins, "--key-file", str(key_file or self.key_file)]
        ended = CliRunner().invoke(application(), words, env={"COLUMNS": "200"})
        said, exit_code = ended.output, ended.exit_code
        if isinstance(ended.exception, StartError):
            with redirect_stderr(StringIO()) as told:
                exit_code = tell(ended.exception)
            said += told.getvalue()
        assert exit_code == status, said
        return said


@contextmanager
def process(*command: str, log: Path, **settings: str) -> Iterator[subprocess.Popen[str]]:
    environment = environment_copy() | {"PYTHONUNBUFFERED": "1"} | settings
    with (
        log.open("w") as output,
        subprocess.Popen(
            [*RHIZOME, *command], stdout=output, stderr=output, text=True, env=environment
        ) as child,
    ):
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(30)


def free_ports(count: int) -> list[int]:
    ports: list[int] = []
    for _ in range(count):
        ports.append(free_port(HOST, frozenset(ports)))
    return ports


def wait_for(claim: Callable[[], bool]) -> None:
    asyncio.run(eventually(lambda: asyncio.to_thread(claim), within_s=120.0, every_s=0.1))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("admin")
    model = write_tokenizer(directory / "model")
    key_file = directory / "admin-key"
    key_file.write_text("the-admin-key\n")
    keys_file = directory / "clients"
    keys_file.write_text(f"alice: {hash_of('alices')}\n")
    with ExitStack() as stack:
        log = directory / "workers.log"
        flags = ("--model", str(model), "--name", "m", "--count", "2", "--no-key")
        stack.enter_context(process("simulated-workers", *flags, log=log))
        wait_for(lambda: log.exists() and "route to them" in log.read_text())
        workers = re.findall(r"--worker (\S+)", log.read_text())
        assert len(workers) == 2
        routers = []
        for number in range(2):
            ports = free_ports(3)
            log = directory / f"router-{number}.log"
            stack.enter_context(
                process(
                    "router",
                    *("--worker", workers[0], "--tokenizer", str(model), "--port", str(ports[0])),
                    *("--metrics-port", str(ports[1]), "--admin-port", str(ports[2])),
                    log=log,
                    RHIZOME_ROUTER__ADMIN__KEY="the-admin-key",
                    RHIZOME_ROUTER__KEYS_FILE=str(keys_file),
                    RHIZOME_ROUTER__RENDERING__STALL_S="2",  # exact, however busy the machine is
                    RHIZOME_ROUTER__SCHEDULING__SHADOWS="[round_robin]",
                )
            )
            routers.append(
                RouterProcess(f"http://{HOST}:{ports[0]}", f"http://{HOST}:{ports[2]}", log)
            )
        for router in routers:
            wait_for(partial(is_ready, router))
        yield Rig(routers, workers, key_file, keys_file, directory)


def is_ready(router: RouterProcess) -> bool:
    try:
        return httpx.get(f"{router.url}/health/ready", timeout=30).status_code == 200
    except httpx.HTTPError:
        return False


def know_their_workers(router: RouterProcess, processes: int) -> bool:
    """Whether so many processes behind one port can all serve."""
    key = {"authorization": "Bearer the-admin-key"}
    try:
        answer = httpx.get(f"{router.admin}/admin/v1/workers", headers=key, timeout=30)
    except httpx.HTTPError:
        return False
    found = answer.json().get("routers", [])
    return [one["state"] for each in found for one in each["workers"]] == ["ready"] * processes


def test_a_request_is_explained_by_the_router_that_had_it(rig: Rig) -> None:
    answer = rig.post(rig.routers[1], "explained-1")
    assert answer.status_code == 200, answer.text
    found = json.loads(rig.command("explain", "explained-1", "--json"))
    assert found["router"] == answer.headers["x-rhizome-router"]
    assert (found["key"], found["outcome"], found["exact"]) == ("alice", "completed", True)
    (attempt,) = found["attempts"]
    assert attempt["worker"] == answer.headers["x-rhizome-worker"]
    assert attempt["ttft_ms"] > 0
    assert found["predicted_cached_tokens"] == int(answer.headers["x-rhizome-prefix-tokens"])
    again = rig.post(rig.routers[1], "explained-2")
    assert again.status_code == 200
    second = json.loads(rig.command("explain", "explained-2", "--json"))
    assert second["cached_tokens"] == second["predicted_cached_tokens"] > 0
    table = rig.command("explain", "explained-2")
    for words in ("alice", attempt["worker"], "candidates", "completed", "first token predicted"):
        assert words in table
    assert "explained-2" in rig.command("explain")


def test_a_request_that_nobody_had_is_said_with_a_hint(rig: Rig) -> None:
    said = rig.command("explain", "never-sent", status=9)
    assert "has no decision of request 'never-sent'" in said
    assert "x-rhizome-router" in said


def test_a_dry_run_asks_without_sending(rig: Rig) -> None:
    body = rig.directory / "body.json"
    body.write_text(json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}))
    found = json.loads(rig.command("explain", "--dry-run", str(body), "--json"))
    assert [one["state"] for one in found] == ["preview", "preview"], "each router says its own"
    body.write_text("[]")
    assert "JSON object" in rig.command("explain", "--dry-run", str(body), status=2)
    body.write_text('{"model": "none", "messages": [{"role": "user", "content": "Hi"}]}')
    assert "does not exist" in rig.command("explain", "--dry-run", str(body), status=9)


def test_workers_come_and_go_by_hand_at_every_router(rig: Rig) -> None:
    first, second = (one.partition(",")[0].removeprefix("http://") for one in rig.workers)
    assert rig.command("workers", "add", rig.workers[1]).count("added") == 2

    def both_ready() -> bool:
        found = json.loads(rig.command("workers", "list", "--json"))
        states = [one["state"] for router in found for one in router["workers"]]
        return states == ["ready"] * 4

    wait_for(both_ready)
    rig.command("workers", "drain", first)
    sent = {
        rig.post(router, f"d{n}").headers["x-rhizome-worker"]
        for n in range(3)
        for router in rig.routers
    }
    assert sent == {second}
    assert "draining" in rig.command("workers", "list")
    rig.command("workers", "resume", first)
    assert rig.command("workers", "remove", second).count("removed") == 2
    assert rig.post(rig.routers[0], "back").headers["x-rhizome-worker"] == first
    assert "there is no worker" in rig.command("workers", "remove", second, status=9)


def test_the_wrong_key_opens_neither_api(rig: Rig) -> None:
    refused = rig.post(rig.routers[0], "refused", key="the-admin-key")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["code"] == "invalid_api_key"
    for key in ("alices", "guess"):
        answer = httpx.get(
            f"{rig.routers[0].admin}/admin/v1/workers", headers={"authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 401
    wrong = rig.directory / "wrong"
    wrong.write_text("wrong")
    assert "401" in rig.command("workers", "list", key_file=wrong, status=9)


def test_a_changed_file_of_keys_is_taken_while_the_router_runs(rig: Rig) -> None:
    before = rig.keys_file.read_text()
    rig.keys_file.write_text(f"{before}bob: {hash_of('bobs')}\n")
    wait_for(lambda: rig.post(rig.routers[0], "bob", key="bobs").status_code == 200)
    rig.keys_file.write_text("broken")
    wait_for(lambda: "keys stay as they were" in rig.routers[0].log.read_text())
    assert rig.post(rig.routers[0], "still", key="bobs").status_code == 200
    rig.keys_file.write_text(before)
    wait_for(lambda: rig.post(rig.routers[0], "gone", key="bobs").status_code == 401)
    found = json.loads(rig.command("explain", "still", "--json"))
    assert found["key"] == "bob"


def test_no_key_is_in_a_log_or_in_the_process_list(rig: Rig) -> None:
    rig.command("workers", "resume", rig.workers[0].partition(",")[0].removeprefix("http://"))
    assert [rig.post(router, "logged").status_code for router in rig.routers] == [200, 200]
    for router in rig.routers:
        text = router.log.read_text()
        assert "router.audit" in text, "actions leave a line"
        for key in ("the-admin-key", "alices", "bobs"):
            assert key not in text
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            assert b"the-admin-key" not in line.read_bytes()


def test_two_processes_of_one_router_answer_behind_one_port(rig: Rig, tmp_path: Path) -> None:
    ports = free_ports(3)
    flags = ("--worker", rig.workers[0], "--port", str(ports[0]), "--metrics-port", str(ports[1]))
    log = tmp_path / "router.log"
    with process(
        *("router", *flags, "--admin-port", str(ports[2])),
        log=log,
        RHIZOME_ROUTER__ADMIN__KEY="the-admin-key",
        RHIZOME_ROUTER__KEYS_FILE=str(rig.keys_file),
        RHIZOME_ROUTER__PROCESSES="2",
    ):
        router = RouterProcess(f"http://{HOST}:{ports[0]}", f"http://{HOST}:{ports[2]}", log)
        both = Rig([router], rig.workers, rig.key_file, rig.keys_file, tmp_path)
        wait_for(partial(know_their_workers, router, 2))
        had = {}
        for number in range(40):  # the kernel spreads connections among the processes
            answer = both.post(router, f"p{number}")
            had[f"p{number}"] = answer.headers["x-rhizome-router"]
            if len(set(had.values())) == 2:
                break
        assert len(set(had.values())) == 2
        first, last = "p0", f"p{len(had) - 1}"
        for name in (first, last):
            found = json.loads(both.command("explain", name, "--json"))
            assert found["router"] == had[name]
        listed = json.loads(both.command("workers", "list", "--json"))
        assert {one["router"] for one in listed} == set(had.values())


def test_without_keys_a_router_does_not_start_unless_told(tmp_path: Path) -> None:
    ended = subprocess.run(
        [*RHIZOME, "router", "--port", "0", "--metrics-port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 2
    assert "--allow-anonymous" in ended.stderr
