"""The values' `settings` and the processes' settings are the same tree."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from rhizome.settings.load import load_settings
from rhizome.settings.schema import settings_schema
from rhizome.settings.tree import Settings
from tests.unit.helm.chart import CI_FILES, Chart, Pod, Render, Values, merged, read_values
from tests.unit.helm.generate import SCHEMA_FILE, schema_text

Schema = dict[str, Any]
TEXTS = ("/other", "other", "7M")


def sample(schema: Schema, counter: Iterator[int]) -> Any:
    """A value that the schema takes and that is not the default, for every field below it."""
    if "anyOf" in schema:
        return sample(next(one for one in schema["anyOf"] if one.get("type") != "null"), counter)
    if "properties" in schema:
        return {name: sample(field, counter) for name, field in schema["properties"].items()}
    if "items" in schema:
        return [sample(schema["items"], counter)]
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != schema.get("default"))
    if schema.get("maximum") == 65_535:  # a port; two must not be the same
        return 20_000 + next(counter)
    if schema["type"] == "string":
        return next(text for text in TEXTS if re.search(schema.get("pattern", ""), text))
    texts_by_name = schema.get("additionalProperties") == {"type": "string"}
    others = {
        "object": {"some-name": "other"} if texts_by_name else {"some-flag": True},
        "boolean": not schema.get("default", False),
        "integer": int(schema.get("minimum", 0)) + 3,
        "number": 0.75,
    }
    return others[schema["type"]]


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {
            key: value
            for name, below in tree.items()
            for key, value in leaves(below, f"{path}.{name}").items()
        }
    return {path: tree}


def test_the_committed_schema_is_the_one_that_the_settings_give() -> None:
    message = "stale: run `python -m tests.unit.helm.generate`"
    assert SCHEMA_FILE.read_text() == schema_text(), message


def test_every_setting_can_be_set_by_values_and_reaches_the_process(chart: Chart) -> None:
    wanted = sample(settings_schema(secrets=False), itertools.count())
    wanted["router"]["peers"]["lease_s"] = 2.75  # at least twice another one
    render = chart.render({"settings": wanted, "ray": {"enabled": False}})
    assert yaml.safe_load(render.settings) == wanted
    read = Settings.model_validate(yaml.safe_load(render.settings)).model_dump(mode="json")
    default = leaves(Settings().model_dump(mode="json"))
    same = {
        path for path, value in leaves(read).items() if path in default and value == default[path]
    }
    assert same == {".redis.url", ".router.api_keys", ".batch.api_key", ".router.admin.key"}


@pytest.mark.parametrize("file", CI_FILES, ids=lambda file: file.stem)
def test_settings_of_every_ci_file_are_valid_for_the_process(chart: Chart, file: Path) -> None:
    values = read_values(file)
    settings = Settings.model_validate(yaml.safe_load(chart.render(values).settings))
    for model in values.get("settings", {}).get("models", []):
        assert model["name"] in {spec.name for spec in settings.models}


@pytest.mark.parametrize("number", [2**20, 16_777_217, 2**40, 2**40 - 1])
def test_large_whole_numbers_stay_whole(chart: Chart, number: int) -> None:
    values = {"settings": {"router": {"prefix": {"index_bytes_max": number}}}}
    settings = Settings.model_validate(yaml.safe_load(chart.render(values).settings))
    assert settings.router.prefix.index_bytes_max == number


def environment(render: Render, pod: Pod) -> dict[str, str]:
    """What the kubelet would give the first container."""
    secrets = {
        (secret["metadata"]["name"], key): base64.b64decode(value).decode()
        for secret in render.of_kind("Secret")
        for key, value in secret["data"].items()
    }
    given: dict[str, str] = {}
    for entry in pod.spec["containers"][0].get("env", []):
        if "value" in entry:
            text = re.sub(r"\$\((\w+)\)", lambda name: given[name[1]], entry["value"])
        else:
            reference = entry["valueFrom"]["secretKeyRef"]
            text = secrets[reference["name"], reference["key"]]
        given[entry["name"]] = text
    return given


def read_as(render: Render, component: str, directory: Path) -> Settings:
    """The settings as the process of a component reads them."""
    pod = render.pod(component)
    container = pod.spec["containers"][0]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/etc/rhizome"] == "settings"
    file = directory / "settings.yaml"
    file.write_text(render.settings)
    return load_settings(file, environment=environment(render, pod))


@pytest.mark.parametrize("component", ["router", "batch", "controller"])
def test_every_process_can_read_its_settings_and_find_the_shared_state(
    everything: Render, component: str, tmp_path: Path
) -> None:
    settings = read_as(everything, component, tmp_path)
    given = environment(everything, everything.pod(component))
    assert settings.redis.url == SecretStr(
        f"redis://:{given['VALKEY_PASSWORD']}@demo-rhizome-valkey:6379/0"
    )


@pytest.mark.parametrize("component", ["router", "batch"])
def test_routers_and_runners_hold_the_generated_key(
    everything: Render, component: str, tmp_path: Path
) -> None:
    (key,) = read_as(everything, component, tmp_path).router.api_keys
    (secret,) = (one for one in everything.of_kind("Secret") if "api-key" in one["data"])
    assert key.get_secret_value() == base64.b64decode(secret["data"]["api-key"]).decode()


def test_runners_send_their_lines_to_the_service_of_the_routers(
    everything: Render, tmp_path: Path
) -> None:
    service = everything.one("Service", "router")
    url = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert read_as(everything, "batch", tmp_path).batch.router_url == url


def test_the_controller_finds_the_ray_head(everything: Render, tmp_path: Path) -> None:
    settings = read_as(everything, "controller", tmp_path)
    (cluster,) = everything.of_kind("RayCluster")
    address = f"ray://{cluster['metadata']['name']}-head-svc:10001"
    assert settings.controller.ray_address == address
    (token,) = (one for one in everything.of_kind("Secret") if "auth_token" in one["data"])
    given = environment(everything, everything.pod("controller"))
    assert given["RAY_AUTH_MODE"] == "token"
    assert given["RAY_AUTH_TOKEN"] == base64.b64decode(token["data"]["auth_token"]).decode()


def test_engines_listen_where_the_router_can_reach_them(everything: Render) -> None:
    settings = Settings.model_validate(yaml.safe_load(everything.settings))
    assert settings.worker.host == "0.0.0.0"  # noqa: S104 -- in a pod, behind key and policy


def test_ray_pods_hold_no_secret_of_the_shared_state(everything: Render) -> None:
    for component in ("ray-head", "ray-worker"):
        text = json.dumps(everything.pod(component).spec)
        assert "secretKeyRef" not in text
        assert "demo-rhizome-settings" not in text


def test_no_pod_gets_service_variables_that_look_like_settings(ci: Render) -> None:
    assert all(pod.spec["enableServiceLinks"] is False for pod in ci.pods)


def test_ports_of_pods_are_those_of_the_settings(chart: Chart) -> None:
    settings: Values = {
        "router": {"port": 8181, "metrics_port": 9191},
        "controller": {"metrics_port": 9292},
    }
    render = chart.render({"settings": settings})
    assert render.pod("router").ports == {"api": 8181, "metrics": 9191}
    assert render.pod("controller").ports == {"metrics": 9292}


def test_pods_restart_when_the_settings_change_and_only_then(chart: Chart) -> None:
    def checksum(values: Values) -> str:
        return chart.render(values).pod("router").annotations["checksum/settings"]

    louder = {"settings": {"logs": {"level": "debug"}}}
    assert checksum({}) != checksum(louder)
    assert checksum({}) == checksum(merged({}, {"router": {"replicas": 7}}))


def test_state_and_batch_directories_are_writable_volumes(everything: Render) -> None:
    settings = Settings.model_validate(yaml.safe_load(everything.settings))
    for component in ("router", "batch"):
        container = everything.pod(component).spec["containers"][0]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        for directory in (settings.state_directory, settings.batch.directory):
            assert not mounts[str(directory)].get("readOnly", False)
