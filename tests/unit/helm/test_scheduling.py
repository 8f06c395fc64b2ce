"""Every key that steers where and how a pod runs shows up in every pod template."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.helm.chart import EVERYTHING, RELEASE, Chart, Render, Values, merged
from tests.unit.helm.generate import read_schema

# Where each pod template takes its keys from.
PLACES = {
    "router": "router",
    "batch": "batch",
    "controller": "controller",
    "valkey": "valkey",
    "ray-head": "ray.head",
    "ray-worker": "ray.workerGroups",
}
# What is set, and the path in the pod template's spec or metadata where it must be found.
SAMPLES: dict[str, tuple[Any, str]] = {
    "nodeSelector": ({"disk": "fast"}, "spec.nodeSelector"),
    "tolerations": ([{"key": "gpu", "operator": "Exists"}], "spec.tolerations"),
    "affinity": (
        {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "spec.affinity",
    ),
    "topologySpreadConstraints": (
        [
            {
                "maxSkew": 2,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"a": "b"}},
            }
        ],
        "spec.topologySpreadConstraints",
    ),
    "priorityClassName": ("urgent", "spec.priorityClassName"),
    "runtimeClassName": ("nvidia", "spec.runtimeClassName"),
    "resources": (
        {"requests": {"cpu": "3", "memory": "3Gi"}, "limits": {"memory": "3Gi"}},
        "container.resources",
    ),
    "extraEnv": ([{"name": "MORE", "value": "yes"}], "container.env"),
    "extraVolumes": ([{"name": "more", "emptyDir": {}}], "spec.volumes"),
    "extraVolumeMounts": ([{"name": "tmp", "mountPath": "/more"}], "container.volumeMounts"),
    "podAnnotations": ({"more": "yes"}, "annotations"),
    "podLabels": ({"more": "yes"}, "labels"),
}


def values_with(place: str, key: str, value: Any) -> Values:
    if place == "ray.workerGroups":
        group = {"name": "g", "replicas": 1, "minReplicas": 1, "maxReplicas": 1}
        return {"ray": {"workerGroups": [{**group, "resources": {}, key: value}]}}
    values: Values = {key: value}
    for part in reversed(place.split(".")):
        values = {part: values}
    return merged(EVERYTHING, values)


def holds(whole: Any, part: Any) -> bool:
    """Whether what was set is all there: as a sub-map, or as items of a list."""
    if isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    if isinstance(part, list):
        return all(item in whole for item in part)
    return bool(whole == part)


@pytest.mark.parametrize("key", SAMPLES)
@pytest.mark.parametrize("component", PLACES)
def test_a_scheduling_key_that_is_set_shows_up_in_the_pod_template(
    chart: Chart, component: str, key: str
) -> None:
    value, path = SAMPLES[key]
    pod = chart.render(values_with(PLACES[component], key, value)).pod(component)
    places = {
        "spec": pod.spec,
        "container": pod.spec["containers"][0],
        "labels": pod.labels,
        "annotations": pod.annotations,
    }
    found: Any = places
    for part in path.split("."):
        found = found[part]
    assert holds(found, value)


def test_every_pod_template_takes_every_key() -> None:
    schema = read_schema()
    for place in PLACES.values():
        properties = schema["properties"]
        for part in place.split("."):
            below = properties[part]
            properties = below.get("items", below)["properties"]
        assert set(SAMPLES) <= set(properties), place
    pod_keys = {name for name in schema["$defs"] if name.startswith(("extra", "pod", "topology"))}
    assert pod_keys - {"podSecurity"} <= set(SAMPLES), "a new key needs a sample"


def test_pods_spread_over_failure_domains_by_themselves(chart: Chart) -> None:
    for pod in chart.render(EVERYTHING).pods:
        (spread,) = pod.spec["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == {
            "app.kubernetes.io/instance": RELEASE,
            "app.kubernetes.io/component": pod.component,
        }


def test_pod_labels_cannot_take_a_pod_out_of_its_service(chart: Chart) -> None:
    stolen = {"app.kubernetes.io/component": "valkey", "app.kubernetes.io/instance": "other"}
    pod = chart.render({"router": {"podLabels": stolen}}).pods
    assert [one.component for one in pod].count("valkey") == 1


def test_ray_pods_leave_the_name_label_to_kuberay(everything: Render) -> None:
    for component in ("ray-head", "ray-worker"):
        assert "app.kubernetes.io/name" not in everything.pod(component).labels


def test_routers_get_time_to_drain(chart: Chart) -> None:
    values = {"settings": {"router": {"shutdown_grace_s": 90.5}}}
    router = chart.render(values).pod("router").spec
    sleep = router["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == ["sleep", "5"]
    assert router["terminationGracePeriodSeconds"] >= 5 + 90.5


def test_ray_workers_get_time_to_drain(chart: Chart) -> None:
    values = {"settings": {"worker": {"drain_grace_s": 600}}}
    assert chart.render(values).pod("ray-worker").spec["terminationGracePeriodSeconds"] >= 600


def test_no_probe_ends_a_pod_that_is_still_loading(everything: Render) -> None:
    for pod in everything.pods:
        for container in pod.spec["containers"]:
            if "livenessProbe" not in container:
                continue
            startup = container["startupProbe"]
            assert startup["periodSeconds"] * startup["failureThreshold"] >= 600, pod.component
            assert startup["periodSeconds"] <= 5, "a pod that starts fast is ready fast"
            liveness = container["livenessProbe"]
            assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60, pod.component


def test_ray_pods_may_load_for_half_an_hour(default: Render) -> None:
    for component in ("ray-head", "ray-worker"):
        startup = default.pod(component).spec["containers"][0]["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800


def test_routers_are_probed_where_they_answer(default: Render) -> None:
    container = default.pod("router").spec["containers"][0]
    assert container["startupProbe"]["httpGet"] == {"path": "/health/live", "port": "api"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "api"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "api"}
