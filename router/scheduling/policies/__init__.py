"""The policies by name, one file each, so that they can be compared on the same candidates."""

from __future__ import annotations

from collections.abc import Callable

from router.scheduling.policies.cost import CostPolicy
from router.scheduling.policies.least_loaded import LeastLoadedPolicy
from router.scheduling.policies.power_of_two import PowerOfTwoPolicy
from router.scheduling.policies.product import ProductPolicy
from router.scheduling.policies.round_robin import RoundRobinPolicy
from router.scheduling.policies.sticky import StickyPolicy
from router.scheduling.policies.threshold import ThresholdPolicy
from router.scheduling.types import Policy

_POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobinPolicy,
    "least_loaded": LeastLoadedPolicy,
    "power_of_two": PowerOfTwoPolicy,
    "threshold": ThresholdPolicy,
    "product": ProductPolicy,
    "sticky": StickyPolicy,
    "cost": CostPolicy,
}
POLICY_NAMES = tuple(_POLICIES)


def build_policy(name: str) -> Policy:
    """A fresh policy; raises `ValueError` naming the known ones."""
    make = _POLICIES.get(name)
    if make is None:
        raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICY_NAMES)}")
    return make()
