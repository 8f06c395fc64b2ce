"""The chart, rendered by Helm's own engine, as manifests and pod templates."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import helm_python
import yaml

CHART_DIRECTORY = Path(__file__).parents[3] / "helm"
CI_FILES = sorted((CHART_DIRECTORY / "ci").glob("*-values.yaml"))
RELEASE = "demo"
NAMESPACE = "serving"

Manifest = dict[str, Any]
Values = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """One pod template of ours, wherever it stands."""

    component: str
    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def ports(self) -> dict[str, int]:
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", [])
        }

    @classmethod
    def of(cls, template: Manifest) -> Self:
        metadata = template["metadata"]
        return cls(
            component=metadata["labels"]["app.kubernetes.io/component"],
            labels=metadata["labels"],
            annotations=metadata.get("annotations") or {},
            spec=template["spec"],
        )


@dataclass(frozen=True)
class Render:
    """All that one `helm install` would send, and what it would say."""

    manifests: list[Manifest]
    notes: str

    def of_kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        """The manifest called `<release>-rhizome-<name>`."""
        (found,) = (
            manifest
            for manifest in self.of_kind(kind)
            if manifest["metadata"]["name"] == f"{RELEASE}-rhizome-{name}"
        )
        return found

    @cached_property
    def pods(self) -> list[Pod]:
        templates = [
            manifest["spec"]["template"]
            for manifest in self.manifests
            if manifest["kind"] in {"Deployment", "StatefulSet"}
        ]
        for cluster in self.of_kind("RayCluster"):
            templates.append(cluster["spec"]["headGroupSpec"]["template"])
            templates += [group["template"] for group in cluster["spec"]["workerGroupSpecs"]]
        return [Pod.of(template) for template in templates]

    def pod(self, component: str) -> Pod:
        """The first pod template of a component."""
        return next(pod for pod in self.pods if pod.component == component)

    @property
    def settings(self) -> str:
        """The settings file that the processes read."""
        text = self.one("ConfigMap", "settings")["data"]["settings.yaml"]
        assert isinstance(text, str)
        return text


class Chart:
    """The chart, loaded once."""

    def __init__(self) -> None:
        self._loaded = helm_python.Chart.load(CHART_DIRECTORY)

    def render(self, values: Values | None = None) -> Render:
        """Raises `helm_python.HelmError` where Helm would refuse to install."""
        texts = self._loaded.render(values or {}, name=RELEASE, namespace=NAMESPACE)
        notes = "".join(text for path, text in texts.items() if path.endswith("NOTES.txt"))
        manifests = [
            document
            for path, text in texts.items()
            if path.endswith(".yaml")
            for document in yaml.load_all(text, Loader=yaml.CSafeLoader)
            if document
        ]
        return Render(manifests, notes)

    def close(self) -> None:
        self._loaded.close()


def read_values(file: Path) -> Values:
    return yaml.safe_load(file.read_text()) or {}


def default_values() -> Values:
    return read_values(CHART_DIRECTORY / "values.yaml")


def merged(below: Values, above: Values) -> Values:
    """As Helm merges values: maps key by key, all else replaced."""
    whole = copy.deepcopy(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(whole.get(key), dict):
            whole[key] = merged(whole[key], value)
        else:
            whole[key] = copy.deepcopy(value)
    return whole


EVERYTHING: Values = read_values(CHART_DIRECTORY / "ci" / "high-availability-values.yaml")
"""Values that render every component."""
