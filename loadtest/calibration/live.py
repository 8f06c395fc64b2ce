"""A mixed open-loop workload on a live engine, and the simulation of the same arrivals."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from loadtest.calibration.probes import Prompts
from loadtest.calibration.replay import Demand, Timing
from loadtest.calibration.target import EngineTarget, Stream
from rhizome.clock import Clock


@dataclass(frozen=True, slots=True)
class Mix:
    """Poisson arrivals of prompts and outputs whose lengths are log-uniform in a range."""

    rate_rps: float
    requests: int
    prompt_min: int = 32
    prompt_max: int = 1_500
    output_min: int = 8
    output_max: int = 128

    def demands(self, rng: Random) -> list[Demand]:
        """A seeded draw."""
        at_s, drawn = 0.0, []
        for _ in range(self.requests):
            at_s += rng.expovariate(self.rate_rps)
            prompt_len = _log_uniform(rng, self.prompt_min, self.prompt_max)
            output_len = _log_uniform(rng, self.output_min, self.output_max)
            drawn.append(Demand(at_s, prompt_len, output_len))
        return drawn


def _log_uniform(rng: Random, low: int, high: int) -> int:
    return round(float(low * (high / low) ** rng.random()))


async def play(
    target: EngineTarget, demands: Sequence[Demand], prompts: Prompts, clock: Clock
) -> tuple[list[Demand], list[Timing]]:
    """Sends each at its time, whatever happens: when they did go out, and what came back."""
    begun_s = clock.monotonic_s()

    async def one(demand: Demand) -> Stream:
        token_ids = prompts.draw(demand.prompt_len)
        await clock.sleep(begun_s + demand.at_s - clock.monotonic_s())
        return await target.stream(token_ids, demand.output_len)

    streams = await asyncio.gather(*map(one, demands))
    sent = [
        Demand(stream.sent_s - begun_s, demand.prompt_len, demand.output_len)
        for demand, stream in zip(demands, streams, strict=True)
    ]
    return sent, [Timing(stream.ttft_ms, stream.tpot_ms) for stream in streams]
