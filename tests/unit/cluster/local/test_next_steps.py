import json
import shlex
import shutil
from pathlib import Path

from cluster.local.layout import ClusterFiles
from cluster.local.next_steps import next_steps, program
from cluster.local.plan import Asked, plan_settings


def lines(name: str | None = None) -> list[str]:
    settings = plan_settings(Asked(name=name, port=8123))
    return list(next_steps(settings, ClusterFiles(Path("/state"))))


def test_the_request_shown_is_one_that_works() -> None:
    command = " ".join(line.strip().rstrip("\\") for line in lines() if "-d " in line)
    body = json.loads(shlex.split(command)[1])
    assert body["model"] == "llama-demo"
    assert body["messages"]


def test_the_address_is_shown_with_its_port() -> None:
    assert any("http://127.0.0.1:8123/docs" in line for line in lines())


def test_commands_name_a_cluster_that_is_not_the_default_one() -> None:
    assert any("rhizome chat --name blue " in line for line in lines("blue"))
    assert not any("--name" in line for line in lines())


def test_the_command_shown_is_the_one_of_this_environment() -> None:
    assert shutil.which(program()) is not None
