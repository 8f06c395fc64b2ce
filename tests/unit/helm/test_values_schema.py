"""Wrong values are refused before anything is installed, and the message says where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests.unit.helm.chart import Chart, Values
from tests.unit.helm.generate import read_schema, values_leaves

# Objects in Kubernetes' own terms, which the API server checks, and the engine's own flags.
OPEN = (
    "additionalProperties",
    "engine_args",
    "global",
    "nodeAffinity",
    "podAffinity",
    "podAntiAffinity",
    "labelSelector",
    "namespaceSelector",
    "podSelector",
    "valueFrom",
    "extraVolumes",
)
GROUP = {"name": "g", "replicas": 1, "minReplicas": 1, "maxReplicas": 1, "resources": {}}
MODEL = {"name": "m", "source": "demo:llama", "cpus_per_worker": 1}
EXTERNAL = {"existingSecret": "mine"}

REFUSED: list[tuple[Values, str]] = [
    # unknown keys
    ({"rooter": {}}, "rooter"),
    ({"router": {"replica": 2}}, "/router"),
    ({"router": {"image": {"digest": "x"}}}, "/router/image"),
    ({"settings": {"rooter": {}}}, "/settings"),
    ({"settings": {"router": {"prt": 1}}}, "/settings/router"),
    ({"settings": {"router": {"prefix": {"bytes": 1}}}}, "/settings/router/prefix"),
    ({"settings": {"models": [{**MODEL, "gpus": 1}]}}, "/settings/models/0"),
    ({"ray": {"workerGroups": [{**GROUP, "tolerationz": []}]}}, "/ray/workerGroups/0"),
    ({"router": {"tolerations": [{"effct": "NoSchedule"}]}}, "/router/tolerations/0"),
    ({"networkPolicy": {"metricsFrom": [{"podSelctor": {}}]}}, "/networkPolicy/metricsFrom/0"),
    # secrets where they would be seen
    ({"settings": {"redis": {"url": "redis://:pw@host"}}}, "/settings/redis"),
    ({"settings": {"router": {"api_keys": ["k"]}}}, "/settings/router"),
    ({"settings": {"router": {"workers": ["http://w:1,key=k"]}}}, "settings.router.workers"),
    # wrong types and values out of bounds
    ({"router": {"replicas": "two"}}, "/router/replicas"),
    ({"router": {"replicas": -1}}, "/router/replicas"),
    ({"router": {"resources": {"requests": {"cpu": 1}}}}, "/router/resources/requests/cpu"),
    ({"router": {"resources": {"limits": {"memory": "2 GB"}}}}, "/router/resources/limits/memory"),
    ({"router": {"service": {"type": "Cluster"}}}, "/router/service/type"),
    ({"settings": {"router": {"port": "8000"}}}, "/settings/router/port"),
    ({"settings": {"router": {"port": 65536}}}, "/settings/router/port"),
    ({"settings": {"router": {"scheduling": {"policy": "best"}}}}, "/scheduling/policy"),
    ({"settings": {"models": [{"name": "m"}]}}, "/settings/models/0"),
    ({"settings": {"models": [{**MODEL, "device": "tpu"}]}}, "/settings/models/0/device"),
    ({"ray": {"workerGroups": [{"name": "g"}]}}, "/ray/workerGroups/0"),
    ({"ray": {"head": {"rayStartParams": {"num-cpus": 1}}}}, "/ray/head/rayStartParams"),
    ({"router": {"extraEnv": [{"value": "x"}]}}, "/router/extraEnv/0"),
    ({"valkey": {"maxmemory": "lots"}}, "/valkey/maxmemory"),
    ({"externalRedis": {"port": 0}}, "/externalRedis/port"),
    ({"podSecurity": {"runAsUser": 0}}, "/podSecurity/runAsUser"),
    ({"serviceMonitor": {"interval": "often"}}, "/serviceMonitor/interval"),
    # values that contradict each other
    ({"externalRedis": EXTERNAL}, "externalRedis.existingSecret are both set"),
    ({"valkey": {"enabled": False}}, "externalRedis.existingSecret is empty"),
    ({"settings": {"router": {"port": 0}}}, "settings.router.port must be a port"),
    ({"settings": {"router": {"port": None}}}, "settings.router.port must be a port"),
    ({"settings": {"router": {"port": 9100}}}, "settings.router.metrics_port are the same"),
    ({"settings": {"router": {"shutdown_grace_s": None}}}, "settings.router.shutdown_grace_s"),
    ({"settings": {"batch": {"directory": "files"}}}, "settings.batch.directory"),
    ({"settings": {"state_directory": "~/x"}}, "settings.state_directory"),
    ({"settings": {"models": [MODEL, MODEL]}}, 'two models share the name "m"'),
    ({"settings": {"models": [{**MODEL, "device": "gpu"}]}}, '"m" wants GPUs'),
    ({"settings": {"models": [{**MODEL, "cpus_per_worker": 0}]}}, "needs cpus_per_worker above 0"),
    (
        {"settings": {"models": [{**MODEL, "workers": 3, "scaling": {"max_workers": 2}}]}},
        "3 workers do not lie within scaling bounds 1 to 2",
    ),
    ({"ray": {"enabled": False}}, "controller.enabled needs a Ray cluster"),
    ({"ray": {"workerGroups": [GROUP, GROUP]}}, 'two groups share the name "g"'),
    ({"ray": {"workerGroups": [{**GROUP, "minReplicas": 2}]}}, "minReplicas above maxReplicas"),
    ({"ray": {"workerGroups": [{**GROUP, "replicas": 2}]}}, "replicas outside minReplicas"),
    ({"networkPolicy": {"enginePorts": {"from": 61000}}}, "networkPolicy.enginePorts.from"),
    (
        {"router": {"ingress": {"enabled": True, "tlsSecret": "t"}}},
        "router.ingress.host must be set",
    ),
    (
        {"router": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
        "router.autoscaling.minReplicas is above",
    ),
]


@pytest.mark.parametrize(("values", "where"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_wrong_value_is_refused_with_its_path(chart: Chart, values: Values, where: str) -> None:
    with pytest.raises(helm_python.HelmError) as refusal:
        chart.render(values)
    assert where in str(refusal.value)


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        for one in schema:
            yield from objects(one, path)
    if isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            yield path, schema
        for key, below in schema.items():
            yield from objects(below, path if key in {"properties", "items"} else f"{path}/{key}")


def test_every_object_of_the_schema_refuses_unknown_keys() -> None:
    for path, schema in objects(read_schema()):
        closed = schema.get("additionalProperties")
        if not path.endswith(OPEN):
            assert closed is False or isinstance(closed, dict), path


def test_every_value_has_a_meaning() -> None:
    for path, schema, _ in values_leaves(read_schema()):
        assert schema.get("description"), path
