"""The workloads of a comparison and the loads at which they are run.

Loads are shares of the knee: the highest rate at which plain round robin answers nearly every
request within the promised latencies. The rates here were found by `--find-knee` on the default
fleet, so that two runs of the comparison offer the same; another fleet needs a search of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from loadtest.plan import Slo
from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape
from rhizome.errors import SettingsError

LEVELS = (0.7, 1.0, 1.3)
"""Shares of the knee."""
GOODPUT_SHARE_MIN = 0.9
"""What a fleet at its knee still answers within the promised latencies."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One workload, ready to be offered at any rate."""

    name: str
    choice: Choice
    knee_per_s: float
    """Of round robin, in requests per second."""
    levels: tuple[float, ...] = LEVELS
    """The loads that the default comparison has time for."""
    slo: Slo = Slo(ttft_ms=1000.0, tpot_ms=100.0)
    duration_scale: float = 1.0
    """How much longer its runs are than others: for those with few requests in a second."""
    api: Api = Api.CHAT
    """What every contender takes: one of them refuses prompts of token ids."""

    def shape(self, rate_per_s: float, duration_s: float, seed: int) -> Shape:
        return Shape(seed=seed, rate_per_s=rate_per_s, duration_s=duration_s)


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        one.name: one
        for one in (
            Scenario(
                name="sessions",
                choice=Choice(
                    name="sessions",
                    settings={"think_s": 3.0, "token_s": 0.02, "output_tokens": 40},
                ),
                knee_per_s=52.0,
            ),
            Scenario(
                name="agents",
                choice=Choice(
                    name="agents", settings={"output_tokens": 30, "tool_s": 1.0, "token_s": 0.02}
                ),
                knee_per_s=16.0,
            ),
            Scenario(
                name="mooncake",
                choice=Choice(name="mooncake"),
                knee_per_s=4.0,  # not searched for: its prompts are so long that runs hold few
                levels=(1.0,),
                slo=Slo(ttft_ms=10_000.0, tpot_ms=400.0),
                duration_scale=2.0,
            ),
            Scenario(
                name="no-sharing",
                choice=Choice(name="no-sharing", settings={"output_tokens": 40}),
                knee_per_s=41.0,
                levels=(1.0,),
            ),
            Scenario(
                name="decode-heavy",
                choice=Choice(name="decode-heavy", settings={"output_tokens": 200}),
                knee_per_s=10.0,  # what two cores can stream, below what the fleet could
                levels=(1.0,),
            ),
        )
    }
)


def scenario(name: str) -> Scenario:
    """Raises `SettingsError` naming the nearest."""
    if name not in SCENARIOS:
        nearest = difflib.get_close_matches(name, SCENARIOS, n=1, cutoff=0.0)
        raise SettingsError(
            f"there is no workload {name!r} to compare; did you mean {nearest[0]!r}?",
            advice=f"Known are {', '.join(SCENARIOS)}.",
        )
    return SCENARIOS[name]
