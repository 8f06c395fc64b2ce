"""Pods pass PodSecurity `restricted`, secrets stay in Secrets, and nobody has rights to spare."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml

from rhizome.settings.tree import Settings
from tests.unit.helm.chart import CHART_DIRECTORY, Chart, Pod, Render

# The volume types that `restricted` allows.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted_faults(pod: Pod) -> list[str]:
    """What the profile `restricted` of the Pod Security Standards refuses."""
    spec = pod.spec
    faults = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    faults += [
        f"volume {volume['name']}" for volume in spec["volumes"] if not set(volume) & VOLUMES
    ]
    whole = spec.get("securityContext", {})
    if whole.get("runAsNonRoot") is not True or whole.get("runAsUser") == 0:
        faults.append("runs as root")
    if whole.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        faults.append("seccomp")
    if whole.get("sysctls"):
        faults.append("sysctls")
    for container in pod.containers:
        faults += [
            f"{container['name']}: {fault}"
            for fault in container_faults(container.get("securityContext", {}))
        ]
        faults += [f"hostPort {port}" for port in container.get("ports", []) if "hostPort" in port]
    return faults


def container_faults(context: dict[str, Any]) -> list[str]:
    capabilities = context.get("capabilities", {})
    faults = {
        "privileged": context.get("privileged", False),
        "escalation": context.get("allowPrivilegeEscalation") is not False,
        "capabilities dropped": capabilities.get("drop") != ["ALL"],
        "capabilities added": capabilities.get("add", []) != [],
        "proc mount": context.get("procMount", "Default") != "Default",
        "root user": context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False,
    }
    return [name for name, wrong in faults.items() if wrong]


def test_every_pod_passes_pod_security_restricted(ci: Render) -> None:
    assert {pod.component: faults for pod in ci.pods if (faults := restricted_faults(pod))} == {}


def test_the_autoscaler_sidecar_passes_pod_security_restricted(default: Render) -> None:
    (cluster,) = default.of_kind("RayCluster")
    context = cluster["spec"]["autoscalerOptions"]["securityContext"]
    assert container_faults(context) == []
    assert context["readOnlyRootFilesystem"] is True


def test_root_file_systems_are_read_only_and_tmp_is_not(ci: Render) -> None:
    for pod in ci.pods:
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounted & {"/tmp", "/run/valkey"}  # noqa: S108 -- a mount in a pod


def test_the_platform_may_choose_users(chart: Chart) -> None:
    nobody = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    for pod in chart.render({"podSecurity": nobody, "valkey": {"podSecurity": nobody}}).pods:
        assert not set(nobody) & set(pod.spec["securityContext"])
        assert restricted_faults(pod) == []


def test_only_the_ray_head_with_autoscaler_gets_a_service_account_token(chart: Chart) -> None:
    for autoscaling in (True, False):
        render = chart.render({"ray": {"autoscaling": {"enabled": autoscaling}}})
        with_token = [
            pod.component for pod in render.pods if pod.spec["automountServiceAccountToken"]
        ]
        assert with_token == (["ray-head"] if autoscaling else [])


def test_no_rights_are_granted(ci: Render) -> None:
    kinds = {manifest["kind"] for manifest in ci.manifests}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


def test_every_pod_has_a_service_account_of_its_own_component(default: Render) -> None:
    accounts = {pod.component: pod.spec["serviceAccountName"] for pod in default.pods}
    assert accounts["ray-head"] == accounts["ray-worker"]
    assert len(set(accounts.values())) == len(accounts) - 1


def secrets_of(render: Render) -> list[str]:
    return [
        base64.b64decode(value).decode()
        for secret in render.of_kind("Secret")
        for value in secret["data"].values()
    ]


def test_no_secret_stands_outside_of_secrets(everything: Render) -> None:
    open_text = json.dumps(
        [manifest for manifest in everything.manifests if manifest["kind"] != "Secret"]
    )
    secrets = secrets_of(everything)
    assert len(secrets) == 5
    for secret in secrets:
        assert secret not in open_text
        assert secret not in everything.notes


def test_generated_secrets_are_long_and_differ_between_installs(chart: Chart) -> None:
    first, second = secrets_of(chart.render()), secrets_of(chart.render())
    assert all(len(secret) >= 40 for secret in first)
    assert not set(first) & set(second)


def test_every_generated_secret_is_kept_on_upgrade() -> None:
    files = list((CHART_DIRECTORY / "templates").rglob("*secret*.yaml"))
    assert len(files) == 4
    assert all('include "rhizome.keptSecret"' in file.read_text() for file in files)
    names = (CHART_DIRECTORY / "templates" / "_names.tpl").read_text()
    assert 'lookup "v1" "Secret"' in names


def test_secrets_that_are_brought_along_are_used_and_none_is_made(chart: Chart) -> None:
    render = chart.render(
        {
            "router": {
                "apiKeys": {"existingSecret": "my-keys", "key": "list"},
                "adminKey": {"existingSecret": "my-admin", "key": "word"},
            },
            "ray": {"auth": {"existingSecret": "my-ray"}},
            "valkey": {"auth": {"existingSecret": "my-valkey", "key": "pass"}},
        }
    )
    assert render.of_kind("Secret") == []
    text = json.dumps(render.manifests)
    for name, key in (
        ("my-keys", "list"),
        ("my-admin", "word"),
        ("my-ray", "auth_token"),
        ("my-valkey", "pass"),
    ):
        assert json.dumps({"name": name, "key": key}) in text
    (cluster,) = render.of_kind("RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "my-ray"}


def test_ray_asks_for_its_token_and_shows_no_dashboard(ci: Render) -> None:
    for cluster in ci.of_kind("RayCluster"):
        assert cluster["spec"]["authOptions"]["mode"] == "token"
        head = cluster["spec"]["headGroupSpec"]
        assert head["rayStartParams"]["include-dashboard"] == "false"
        assert head["serviceType"] == "ClusterIP"
        assert 8265 not in Pod.of(head["template"]).ports.values()


@pytest.mark.parametrize("flag", ["include-dashboard", "node-manager-port", "num-cpus"])
def test_flags_of_ray_that_the_chart_owns_cannot_be_overridden(chart: Chart, flag: str) -> None:
    render = chart.render({"ray": {"head": {"rayStartParams": {flag: "evil", "labels": "a=b"}}}})
    (cluster,) = render.of_kind("RayCluster")
    params = cluster["spec"]["headGroupSpec"]["rayStartParams"]
    assert params[flag] != "evil"
    assert params["labels"] == "a=b"


def test_a_secret_of_key_hashes_is_mounted_as_a_directory_that_follows_it(chart: Chart) -> None:
    render = chart.render({"router": {"keysFile": {"existingSecret": "hashes", "key": "lines"}}})
    (router,) = [pod for pod in render.pods if pod.component == "router"]
    (container,) = router.containers
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "keys"]
    assert mount == {"name": "keys", "mountPath": "/etc/rhizome-keys", "readOnly": True}
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["RHIZOME_ROUTER__KEYS_FILE"] == "/etc/rhizome-keys/lines"


def test_the_admin_api_is_on_and_reached_from_inside_its_pod_only(everything: Render) -> None:
    (router,) = [pod for pod in everything.pods if pod.component == "router"]
    (container,) = router.containers
    assert "RHIZOME_ROUTER__ADMIN__KEY" in {one["name"] for one in container["env"]}
    assert "admin" not in {port["name"] for port in container["ports"]}
    settings = Settings.model_validate(yaml.safe_load(everything.settings))
    assert settings.router.admin.host == "127.0.0.1"


def test_metrics_are_not_behind_the_service_that_clients_use(everything: Render) -> None:
    (port,) = everything.one("Service", "router")["spec"]["ports"]
    assert port["name"] == "api"
    assert everything.one("Service", "router-metrics")["spec"]["clusterIP"] == "None"


def test_resources_are_asked_for_as_strings(ci: Render) -> None:
    for pod in ci.pods:
        for container in pod.containers:
            requests = container["resources"]["requests"]
            assert {"cpu", "memory"} <= set(requests)
            limits = container["resources"].get("limits", {})
            assert all(isinstance(value, str) for value in (*requests.values(), *limits.values()))
