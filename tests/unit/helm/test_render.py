"""Every values file of ci/ renders to manifests that an API server would take."""

from __future__ import annotations

import pytest

from tests.unit.helm.chart import CHART_DIRECTORY, Render
from tests.unit.helm.schemas import MINORS, faults, json_schema


@pytest.mark.parametrize("minor", MINORS)
def test_every_manifest_is_valid_for_recent_kubernetes(ci: Render, minor: str) -> None:
    found = {
        f"{manifest['kind']}/{manifest['metadata']['name']}": faults(manifest, minor)
        for manifest in ci.manifests
    }
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_no_two_manifests_share_kind_and_name(ci: Render) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in ci.manifests]
    assert len(names) == len(set(names))


def test_selectors_match_the_labels_of_their_own_pods(ci: Render) -> None:
    for manifest in ci.manifests:
        if manifest["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        wanted = manifest["spec"]["selector"]["matchLabels"].items()
        assert wanted <= manifest["spec"]["template"]["metadata"]["labels"].items()


def test_services_select_pods_that_open_their_ports(ci: Render) -> None:
    for service in ci.of_kind("Service"):
        selected = [
            pod for pod in ci.pods if service["spec"]["selector"].items() <= pod.labels.items()
        ]
        assert selected, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in pod.ports for pod in selected)


def test_every_volume_mount_has_its_volume(ci: Render) -> None:
    claims = {
        template["metadata"]["name"]
        for stateful in ci.of_kind("StatefulSet")
        for template in stateful["spec"].get("volumeClaimTemplates", [])
    }
    for pod in ci.pods:
        volumes = {volume["name"] for volume in pod.spec["volumes"]} | claims
        mounts = {
            mount["name"] for container in pod.containers for mount in container["volumeMounts"]
        }
        assert mounts <= volumes


def test_every_secret_and_service_account_that_is_made_is_used(default: Render) -> None:
    text = str([pod.spec for pod in default.pods]) + str(default.of_kind("RayCluster"))
    for kind in ("Secret", "ServiceAccount"):
        for manifest in default.of_kind(kind):
            assert manifest["metadata"]["name"] in text


def test_each_template_file_holds_at_most_one_resource() -> None:
    for file in (CHART_DIRECTORY / "templates").rglob("*.yaml"):
        assert file.read_text().count("\nkind: ") <= 1, file


def test_a_structural_schema_refuses_unknown_fields_but_not_those_beside_a_value_rule() -> None:
    schema = json_schema(
        {
            "type": "object",
            "properties": {"port": {"x-kubernetes-int-or-string": True}},
            "anyOf": [{"properties": {"port": {"type": "string"}}}],
        }
    )
    assert schema["additionalProperties"] is False
    assert "additionalProperties" not in schema["anyOf"][0]
    assert schema["properties"]["port"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def test_a_typo_in_a_custom_resource_is_found(default: Render) -> None:
    (cluster,) = default.of_kind("RayCluster")
    spec = {**cluster["spec"], "workerGroupSpec": []}
    assert "workerGroupSpec" in faults({**cluster, "spec": spec}, MINORS[0])[0]


def test_ray_nodes_outlive_a_lost_head(default: Render) -> None:
    (cluster,) = default.of_kind("RayCluster")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        for container in group["template"]["spec"]["containers"]:
            values = {one["name"]: one.get("value") for one in container["env"]}
            assert int(values["RAY_gcs_rpc_server_reconnect_timeout_s"]) >= 3600
