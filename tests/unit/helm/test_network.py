"""Nothing is reachable but what the parts need of each other."""

from __future__ import annotations

import pytest

from tests.unit.helm.chart import Chart, Pod, Render
from tests.unit.helm.policies import End, may_connect

API, GCS, CLIENT, VALKEY = 8000, 6379, 10001, 6379
ENGINE = 40_000
RAY_PODS = ("ray-head", "ray-worker")
METRICS = {"router": 9100, "controller": 9101, "ray-head": 8080, "ray-worker": 8080}


def flows(render: Render) -> set[tuple[str, str, int]]:
    """Every connection between pods of the release that the policies let through."""
    policies = render.of_kind("NetworkPolicy")
    one_each = {pod.component: pod for pod in render.pods}
    return {
        (source.component, target.component, port)
        for source in one_each.values()
        for target in one_each.values()
        for port in (*target.ports.values(), ENGINE)
        if may_connect(policies, End.of(source), End.of(target), port)
    }


def test_only_the_connections_that_the_design_needs_are_open(everything: Render) -> None:
    within_ray = {
        (source, target, port)
        for source in RAY_PODS
        for target in RAY_PODS
        for port in (*everything.pod(target).ports.values(), ENGINE)
    }
    users_of_valkey = ("router", "batch", "controller", "ray-worker")
    assert flows(everything) - within_ray == {
        ("batch", "router", API),
        ("router", "ray-worker", ENGINE),
        ("controller", "ray-head", CLIENT),
        *((user, "valkey", VALKEY) for user in users_of_valkey),
    }
    assert within_ray <= flows(everything)


def test_every_container_port_is_opened_by_a_policy_to_somebody(everything: Render) -> None:
    reached = {(target, port) for _, target, port in flows(everything)}
    scraped = set(METRICS.items())
    opened = {(pod.component, port) for pod in everything.pods for port in pod.ports.values()}
    assert opened <= reached | scraped


def reachable_from(render: Render, namespace: str) -> set[tuple[str, int]]:
    policies = render.of_kind("NetworkPolicy")
    outsider = End.elsewhere(namespace)
    return {
        (pod.component, port)
        for pod in render.pods
        for port in (*pod.ports.values(), ENGINE, 8265, 52365)
        if may_connect(policies, outsider, End.of(pod), port)
    }


def test_other_namespaces_reach_the_api_only(default: Render) -> None:
    assert reachable_from(default, "elsewhere") == {("router", API)}


def test_the_monitoring_namespace_reaches_every_metrics_port(default: Render) -> None:
    assert reachable_from(default, "monitoring") == {("router", API), *METRICS.items()}


def test_named_clients_shut_everybody_else_out_of_the_api(everything: Render) -> None:
    assert reachable_from(everything, "ingress-nginx") == {("router", API)}
    assert reachable_from(everything, "elsewhere") == set()


def test_every_pod_is_under_the_default_deny(ci: Render) -> None:
    (deny,) = (
        policy
        for policy in ci.of_kind("NetworkPolicy")
        if policy["metadata"]["name"].endswith("default-deny")
    )
    assert "ingress" not in deny["spec"]
    assert sorted(deny["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    for pod in ci.pods:
        assert deny["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items()


def test_valkey_may_open_no_connection(default: Render) -> None:
    policies = default.of_kind("NetworkPolicy")
    valkey = End.of(default.pod("valkey"))
    outside = End.elsewhere("elsewhere")
    assert not may_connect(policies, valkey, outside, 443)


@pytest.mark.parametrize(("downloads", "allowed"), [(True, True), (False, False)])
def test_model_downloads_are_open_to_routers_and_workers_if_wanted(
    chart: Chart, downloads: bool, allowed: bool
) -> None:
    render = chart.render({"networkPolicy": {"modelDownloads": downloads}})
    policies, hub = render.of_kind("NetworkPolicy"), End.elsewhere("outside")
    for component in ("router", "ray-worker"):
        pod: Pod = render.pod(component)
        assert may_connect(policies, End.of(pod), hub, 443) is allowed


def test_an_external_redis_is_reachable_on_its_port(chart: Chart) -> None:
    values = {
        "valkey": {"enabled": False},
        "externalRedis": {"existingSecret": "mine", "port": 6390},
    }
    render = chart.render(values)
    policies, redis = render.of_kind("NetworkPolicy"), End.elsewhere("databases")
    allowed = {
        pod.component for pod in render.pods if may_connect(policies, End.of(pod), redis, 6390)
    }
    assert allowed == {"router", "controller", "ray-worker"}


def test_policies_can_be_left_to_the_cluster(chart: Chart) -> None:
    render = chart.render({"networkPolicy": {"enabled": False}})
    assert render.of_kind("NetworkPolicy") == []
    assert "networkPolicy.enabled is false" in render.notes


def test_ray_start_keeps_to_fixed_ports_outside_the_range_of_engines(default: Render) -> None:
    (cluster,) = default.of_kind("RayCluster")
    head = cluster["spec"]["headGroupSpec"]
    for group in (head, *cluster["spec"]["workerGroupSpecs"]):
        ports = [int(value) for flag, value in group["rayStartParams"].items() if "port" in flag]
        assert ports
        assert all(port < 32_768 for port in ports)
        assert group["rayStartParams"]["node-manager-port"] == "6380"
        opened = Pod.of(group["template"]).ports
        assert opened["raylet"] == 6380
        assert opened["metrics"] == int(group["rayStartParams"]["metrics-export-port"])
    assert Pod.of(head["template"]).ports["client"] == CLIENT
    assert Pod.of(head["template"]).ports["gcs-server"] == GCS
