import socket
from pathlib import Path

import pytest

from cluster.local.layout import ClusterFiles
from cluster.local.plan import DEMO_MODELS, Asked, choose_ports, plan_settings, with_admin_key
from cluster.local.ports import free_port
from rhizome.errors import PortInUse, SettingsError
from rhizome.ids import hash_of
from rhizome.settings.load import load_settings

HOST = "127.0.0.1"


def test_without_a_model_both_demonstrations_are_served() -> None:
    settings = plan_settings(Asked())
    assert [(spec.name, spec.workers) for spec in settings.models] == [
        ("llama-demo", 2),
        ("mixtral-demo", 1),
    ]


def test_every_demonstration_bounds_its_kv_cache() -> None:
    assert all(spec.kv_cache_memory for spec in DEMO_MODELS)


def test_a_workers_flag_widens_the_scaling_bounds_it_leaves() -> None:
    llama = plan_settings(Asked(workers=5)).models[0]
    assert (llama.workers, llama.bounds.min_workers, llama.bounds.max_workers) == (5, 2, 5)


def test_a_directory_is_served_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "small-model").mkdir()
    (spec,) = plan_settings(Asked(model=str(tmp_path / "small-model"))).models
    assert (spec.name, spec.workers, spec.device) == ("small-model", 1, "cpu")


def test_a_hub_id_keeps_its_owner_in_the_name() -> None:
    (spec,) = plan_settings(Asked(model="some-owner/some-model")).models
    assert spec.name == "some-owner/some-model"


def test_a_demonstration_asked_for_by_source_keeps_its_name() -> None:
    (spec,) = plan_settings(Asked(model="demo:mixtral", workers=2)).models
    assert (spec.name, spec.workers) == ("mixtral-demo", 2)


def test_a_gpu_worker_gets_no_cpu_cache_size() -> None:
    (spec,) = plan_settings(Asked(model="some/model", device="gpu")).models
    assert (spec.kv_cache_memory, spec.block_size) == (None, None)


def test_a_served_name_that_no_client_could_ask_for_is_refused() -> None:
    with pytest.raises(SettingsError, match="name"):
        plan_settings(Asked(model="demo:llama", served_name="no spaces"))


def test_a_served_name_without_a_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="--model"):
        plan_settings(Asked(served_name="x"))


def test_the_simulated_engine_brings_its_own_sizes_to_the_demonstrations() -> None:
    asked = Asked(engine="simulated", engine_args={"profile": "llama-3.1-8b-h100"})
    for spec in plan_settings(asked).models:
        assert spec.engine == "simulated"
        assert spec.engine_args == {"profile": "llama-3.1-8b-h100"}
        assert (spec.block_size, spec.kv_cache_memory, spec.max_model_len) == (None, None, None)


def test_two_names_have_two_namespaces_on_a_shared_redis() -> None:
    first, second = (plan_settings(Asked(name=name)) for name in ("one", "two"))
    assert first.redis.namespace != second.redis.namespace


def test_what_the_file_sets_stands_above_the_local_defaults(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("router: {shutdown_grace_s: 99}\nredis: {namespace: mine}\n")
    settings = plan_settings(Asked(config=file))
    assert settings.router.shutdown_grace_s == 99
    assert settings.redis.namespace == "mine"


def test_the_api_port_must_be_free_exactly() -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1)
        taken = listener.getsockname()[1]
        with pytest.raises(PortInUse, match=str(taken)):
            choose_ports(load_settings(flags={"router.port": taken}))


def test_all_chosen_ports_differ() -> None:
    settings = plan_settings(Asked(port=free_port(HOST, frozenset())))
    chosen = choose_ports(settings)
    router = chosen.router
    ports = {
        *(router.port, router.metrics_port, router.admin.port),
        chosen.controller.metrics_port,
    }
    assert len(ports) == 4


def test_clusters_with_names_of_their_own_leave_the_default_ports_alone() -> None:
    settings = plan_settings(Asked(name="second", port=free_port(HOST, frozenset())))
    chosen = choose_ports(settings)
    defaults = {settings.router.metrics_port, settings.controller.metrics_port}
    assert not defaults & {chosen.router.metrics_port, chosen.controller.metrics_port}


def test_a_metrics_port_that_was_set_must_be_free() -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1)
        taken = listener.getsockname()[1]
        flags = {
            "router.port": free_port(HOST, frozenset({taken})),
            "router.metrics_port": taken,
        }
        with pytest.raises(PortInUse) as caught:
            choose_ports(load_settings(flags=flags))
    assert "router.metrics_port" in caught.value.advice


def test_no_keys_are_asked_for_on_a_laptop_unless_others_could_reach_it(tmp_path: Path) -> None:
    assert plan_settings(Asked()).router.allow_anonymous
    file = tmp_path / "settings.yaml"
    file.write_text("router: {host: 0.0.0.0}\n")
    assert not plan_settings(Asked(config=file)).router.allow_anonymous


def test_a_cluster_has_an_admin_key_in_a_file_for_its_owner_only(tmp_path: Path) -> None:
    files = ClusterFiles(tmp_path)
    settings = with_admin_key(plan_settings(Asked()), files)
    key = files.admin_key.read_text().strip()
    assert files.admin_key.stat().st_mode & 0o777 == 0o600
    assert list(settings.router.admin.keys.values()) == [hash_of(key)]
    assert key not in settings.model_dump_json()


def test_an_admin_key_of_the_settings_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("router: {admin: {key: mine}}\n")
    settings = with_admin_key(plan_settings(Asked(config=file)), ClusterFiles(tmp_path))
    assert settings.router.admin.keys == {}
    assert not ClusterFiles(tmp_path).admin_key.exists()
