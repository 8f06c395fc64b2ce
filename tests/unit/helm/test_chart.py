"""The chart as a package: versions, lint, notes, documents, and what its switches switch."""

from __future__ import annotations

import re
from pathlib import Path

import helm_python
import pytest
import yaml

import rhizome
from tests.unit.helm.chart import CHART_DIRECTORY, CI_FILES, EVERYTHING, Chart, Render, read_values
from tests.unit.helm.generate import README_FILE, readme_text

ROOT = CHART_DIRECTORY.parent


def test_chart_and_application_carry_the_version_of_the_package() -> None:
    metadata = yaml.safe_load((CHART_DIRECTORY / "Chart.yaml").read_text())
    assert metadata["version"] == rhizome.__version__
    assert metadata["appVersion"] == rhizome.__version__


def test_ray_in_the_chart_is_ray_in_the_lock(default: Render) -> None:
    (cluster,) = default.of_kind("RayCluster")
    for lock in ("cpu-lock.txt", "cuda-lock.txt"):
        pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements" / lock).read_text(), re.M)
        assert pinned
        assert cluster["spec"]["rayVersion"] == pinned[1]


@pytest.mark.parametrize("file", CI_FILES, ids=lambda file: file.stem)
def test_lint_has_nothing_to_say(file: Path) -> None:
    report = helm_python.lint(CHART_DIRECTORY, read_values(file), strict=True)
    assert (report["errors"], report["messages"]) == ([], [])


def test_the_tables_of_the_readme_are_current() -> None:
    message = "stale: run `python -m tests.unit.helm.generate`"
    assert README_FILE.read_text() == readme_text(), message


def test_images_default_to_the_version_of_the_application(default: Render) -> None:
    for pod in default.pods:
        for container in pod.containers:
            if pod.component != "valkey":
                assert container["image"].endswith(f":{rhizome.__version__}")


def test_a_registry_goes_in_front_of_every_image(chart: Chart) -> None:
    values = {"image": {"registry": "mirror.example.org/x/", "pullSecrets": ["a"]}}
    render = chart.render(values)
    for pod in render.pods:
        assert pod.spec["imagePullSecrets"] == [{"name": "a"}]
        assert all(
            container["image"].startswith("mirror.example.org/x/") for container in pod.containers
        )
    (cluster,) = render.of_kind("RayCluster")
    assert cluster["spec"]["autoscalerOptions"]["image"].startswith("mirror.example.org/x/")


def test_the_notes_tell_a_first_request_that_fits_the_install(default: Render) -> None:
    notes = default.notes
    service = default.one("Service", "router")
    (port,) = service["spec"]["ports"]
    assert f"port-forward service/{service['metadata']['name']} 8000:{port['port']}" in notes
    assert "get secret demo-rhizome-api-keys" in notes
    assert "curl http://127.0.0.1:8000/v1/chat/completions" in notes
    assert '"model": "demo-llama"' in notes
    assert '"Authorization: Bearer $RHIZOME_API_KEY"' in notes


def test_the_notes_ask_for_no_key_where_none_is_needed_and_say_so(chart: Chart) -> None:
    notes = chart.render({"settings": {"router": {"allow_anonymous": True}}}).notes
    assert "Authorization" not in notes
    assert "allow_anonymous is true" in notes


def test_the_autoscaler_of_routers_takes_the_place_of_a_fixed_number(chart: Chart) -> None:
    fixed = chart.render({"router": {"replicas": 5}})
    assert fixed.of_kind("HorizontalPodAutoscaler") == []
    assert fixed.one("Deployment", "router")["spec"]["replicas"] == 5
    scaled = chart.render({"router": {"autoscaling": {"enabled": True, "maxReplicas": 20}}})
    (autoscaler,) = scaled.of_kind("HorizontalPodAutoscaler")
    assert autoscaler["spec"]["maxReplicas"] == 20
    target = autoscaler["spec"]["scaleTargetRef"]["name"]
    assert target == scaled.one("Deployment", "router")["metadata"]["name"]
    assert "replicas" not in scaled.one("Deployment", "router")["spec"]


def test_an_upgrade_leaves_the_number_of_autoscaled_ray_pods_alone(chart: Chart) -> None:
    for enabled in (True, False):
        (cluster,) = chart.render({"ray": {"autoscaling": {"enabled": enabled}}}).of_kind(
            "RayCluster"
        )
        for group in cluster["spec"]["workerGroupSpecs"]:
            assert ("replicas" in group) is not enabled
            assert group["minReplicas"] <= group["maxReplicas"]


def test_service_monitors_find_the_metrics_services(chart: Chart, default: Render) -> None:
    assert default.of_kind("ServiceMonitor") == []
    render = chart.render(EVERYTHING)
    for monitor in render.of_kind("ServiceMonitor"):
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (service,) = (
            one for one in render.of_kind("Service") if wanted <= one["metadata"]["labels"].items()
        )
        names = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= names
    assert len(render.of_kind("ServiceMonitor")) == 2


@pytest.mark.parametrize(
    ("values", "component"),
    [
        ({"batch": {"enabled": False}}, "batch"),
        ({"controller": {"enabled": False}}, "controller"),
        ({"ray": {"enabled": False}, "controller": {"enabled": False}}, "ray"),
        (
            {"valkey": {"enabled": False}, "externalRedis": {"existingSecret": "mine"}},
            "valkey",
        ),
    ],
)
def test_a_part_that_is_off_leaves_nothing_behind(
    chart: Chart, values: dict[str, object], component: str
) -> None:
    left = [
        f"{manifest['kind']}/{manifest['metadata']['name']}"
        for manifest in chart.render(values).manifests
        if manifest["metadata"]["labels"]["app.kubernetes.io/component"].startswith(component)
    ]
    assert left == []


def test_two_releases_in_one_namespace_share_no_name(chart: Chart, default: Render) -> None:
    other = chart.render({"fullnameOverride": "other"})
    mine = {(one["kind"], one["metadata"]["name"]) for one in default.manifests}
    theirs = {(one["kind"], one["metadata"]["name"]) for one in other.manifests}
    assert not mine & theirs


def test_long_names_leave_room_for_what_kubernetes_appends(chart: Chart) -> None:
    render = chart.render({"fullnameOverride": "x" * 80})
    assert all(len(manifest["metadata"]["name"]) <= 63 for manifest in render.manifests)
    (cluster,) = render.of_kind("RayCluster")
    assert len(cluster["metadata"]["name"]) <= 50, "KubeRay's own bound"


def test_valkey_throws_nothing_away_and_asks_for_its_password(default: Render) -> None:
    text = default.one("ConfigMap", "valkey")["data"]["valkey.conf"]
    assert "\nmaxmemory-policy noeviction\n" in text
    assert "\nappendonly yes\n" in text
    assert "\ninclude /run/valkey/auth.conf" in text


def test_valkey_keeps_its_data_on_a_claim_unless_told_not_to(chart: Chart) -> None:
    for enabled in (True, False):
        render = chart.render({"valkey": {"persistence": {"enabled": enabled}}})
        (stateful,) = render.of_kind("StatefulSet")
        assert ("volumeClaimTemplates" in stateful["spec"]) is enabled
        assert ("persistence.enabled is false" in render.notes) is not enabled
