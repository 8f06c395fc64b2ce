"""The workloads of a comparison and the loads at which they are run.

Loads are shares of the knee: the highest rate at which plain round robin answers nearly every
request within the promised latencies. The rates here were found by `--find-knee` on the default
fleet, so that two runs of the comparison offer the same; another fleet needs a search of its own.

All times and rates are in the engines' own time, that of their profile. Engines at half speed have
a workload at half speed before them (`at_speed`): thinking takes twice as long, and so may answers.
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

AROUND_THE_KNEE = (0.7, 1.0, 1.3)
"""Shares of the knee."""
GOODPUT_SHARE_MIN = 0.9
"""What a fleet at its knee still answers within the promised latencies."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One workload, ready to be offered at any rate."""

    name: str
    choice: Choice
    knee_per_s: float
    """Of round robin, in requests per second."""
    slo: Slo = Slo(ttft_ms=500.0, tpot_ms=50.0)
    levels: tuple[float, ...] = AROUND_THE_KNEE
    """The loads at which it is run."""
    tail_s: float = 0.0
    """How much longer than others' its last answers take, about, in the engines' time."""
    duration_scale: float = 1.0
    """How much longer its runs are than others: for those with few requests in a second."""
    api: Api = Api.CHAT
    """What every contender takes: one of them refuses prompts of token ids."""

    def at_speed(self, speed: float) -> Scenario:
        """The same for engines that are `speed` times as fast as their profile."""
        settings = {
            name: value / speed if name.endswith("_s") else value
            for name, value in self.choice.settings.items()
        }
        slo = Slo(
            ttft_ms=None if self.slo.ttft_ms is None else self.slo.ttft_ms / speed,
            tpot_ms=None if self.slo.tpot_ms is None else self.slo.tpot_ms / speed,
        )
        return msgspec.structs.replace(
            self,
            choice=msgspec.structs.replace(self.choice, settings=settings),
            knee_per_s=self.knee_per_s * speed,
            slo=slo,
        )

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
                    settings={"think_s": 1.5, "token_s": 0.01, "output_tokens": 40},
                ),
                knee_per_s=104.0,
            ),
            Scenario(
                name="agents",
                choice=Choice(
                    name="agents", settings={"output_tokens": 30, "tool_s": 0.5, "token_s": 0.01}
                ),
                knee_per_s=32.0,
                duration_scale=1.5,
            ),
            Scenario(
                name="mooncake",
                choice=Choice(name="mooncake"),
                knee_per_s=8.0,  # not searched for: its prompts are so long that runs hold few
                levels=(1.0,),
                tail_s=20.0,
                slo=Slo(ttft_ms=5_000.0, tpot_ms=200.0),
                duration_scale=2.0,
            ),
            Scenario(
                name="no-sharing",
                choice=Choice(name="no-sharing", settings={"output_tokens": 40}),
                knee_per_s=82.0,
            ),
            Scenario(
                name="one-prefix",
                choice=Choice(name="one-prefix", settings={"output_tokens": 40}),
                knee_per_s=130.0,
            ),
            Scenario(
                name="shared-prefixes",  # sized for a small model on two cores: --engine vllm
                choice=Choice(
                    name="zipf-prefixes",
                    settings={
                        "prefixes": 24,
                        "prefix_tokens": 2000,
                        "unique_tokens": 60,
                        "output_tokens": 8,
                    },
                ),
                levels=(1.0,),
                knee_per_s=1.5,
                slo=Slo(ttft_ms=2_000.0, tpot_ms=500.0),
                duration_scale=6.0,
            ),
            Scenario(
                name="decode-heavy",
                choice=Choice(name="decode-heavy", settings={"output_tokens": 200}),
                levels=(1.0,),
                knee_per_s=20.0,  # what two cores can stream, below what the fleet could
            ),
        )
    }
)
DEFAULT_SCENARIOS = ("sessions", "agents", "no-sharing", "one-prefix")
"""What fits into a quarter of an hour: two that share prefixes, and two controls."""
FULL_SCENARIOS = (*DEFAULT_SCENARIOS, "mooncake", "decode-heavy")
"""All that are sized for simulated engines."""


def scenario(name: str) -> Scenario:
    """Raises `SettingsError` naming the nearest."""
    if name not in SCENARIOS:
        nearest = difflib.get_close_matches(name, SCENARIOS, n=1, cutoff=0.0)
        raise SettingsError(
            f"there is no workload {name!r} to compare; did you mean {nearest[0]!r}?",
            advice=f"Known are {', '.join(SCENARIOS)}.",
        )
    return SCENARIOS[name]
