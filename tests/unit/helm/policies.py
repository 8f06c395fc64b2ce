"""A small model of NetworkPolicy: who may open a connection to which port.

Knows what the chart uses: pod and namespace selectors by labels, ports by number, name or range.
Pods without a policy for a direction are open in it, as in Kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.unit.helm.chart import NAMESPACE, Manifest, Pod

Rule = dict[str, Any]


@dataclass(frozen=True)
class End:
    """One end of a connection."""

    labels: dict[str, str]
    namespace: str
    ports: dict[str, int]

    @classmethod
    def of(cls, pod: Pod) -> End:
        return cls(pod.labels, NAMESPACE, pod.ports)

    @classmethod
    def elsewhere(cls, namespace: str) -> End:
        """A pod of somebody else, even one that carries our labels' values."""
        return cls({"app.kubernetes.io/component": "router"}, namespace, {})


def may_connect(policies: list[Manifest], source: End, target: End, port: int) -> bool:
    """Whether TCP from `source` to `target`'s `port` is let through on both sides."""
    return _allows(policies, "Egress", source, (target, target, port)) and _allows(
        policies, "Ingress", target, (source, target, port)
    )


def _allows(
    policies: list[Manifest], direction: str, subject: End, flow: tuple[End, End, int]
) -> bool:
    """Whether one of the policies of `subject` lets the flow (peer, target, port) through."""
    if subject.namespace != NAMESPACE:
        return True
    ours = [
        policy["spec"]
        for policy in policies
        if direction in policy["spec"]["policyTypes"]
        and _matches(policy["spec"]["podSelector"], subject.labels)
    ]
    peer, target, port = flow
    key = "from" if direction == "Ingress" else "to"
    return not ours or any(
        _is_peer(rule.get(key), peer) and _is_port(rule.get("ports"), target, port)
        for spec in ours
        for rule in spec.get(direction.lower(), [])
    )


def _matches(selector: Rule, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "the model knows labels only"
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def _is_peer(peers: list[Rule] | None, end: End) -> bool:
    if not peers:
        return True
    return any(
        _matches(peer.get("podSelector", {}), end.labels)
        and (
            _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace})
            if "namespaceSelector" in peer
            else end.namespace == NAMESPACE
        )
        for peer in peers
    )


def _is_port(ports: list[Rule] | None, target: End, port: int) -> bool:
    if not ports:
        return True
    for one in ports:
        named: str | int = one["port"]
        first = target.ports.get(named, -1) if isinstance(named, str) else named
        if one.get("protocol", "TCP") == "TCP" and first <= port <= one.get("endPort", first):
            return True
    return False
