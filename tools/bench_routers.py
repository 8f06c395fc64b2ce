"""Several routers against one, simulated: what is lost when each sees the others' load late.

    python -m tools.bench_routers [--routers 3] [--duration 60] [--seeds 3]

Plays the comparison's sessions and agents at the knee and at 1.3 of it, each request coming to one
of the routers by chance: one router, several that tell each other of their load, and several that
do not. Prints hit rate and p99 TTFT beside those of one router, over all seeds together.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from loadtest.comparison.scenarios import scenario
from loadtest.simulation.fleet import FleetSimulation
from loadtest.simulation.running import Scenario, block_sized
from loadtest.workloads.catalog import open_workload
from workers.engine.simulated.profile import load_profile

_WORKERS = 8
_WARMUP_S = 10.0


def main() -> None:
    asked = _arguments()
    print(f"{'workload':<10}{'load':>6}{'routers':>10}{'hit rate':>10}{'of one':>8}", end="")
    print(f"{'TTFT mean':>11}{'p99':>8}{'of one':>8}{'busiest':>9}{'failed':>8}")
    for name in asked.workloads:
        for load in asked.loads:
            one: tuple[float, float] | None = None
            for label, routers, delay_s in (
                ("1", 1, None),
                (str(asked.routers), asked.routers, asked.delay_ms / 1000),
                (f"{asked.routers} alone", asked.routers, None),
            ):
                hits, ttft_ms, over, failed = _played(asked, name, load, routers, delay_s)
                p99 = float(np.percentile(ttft_ms, 99))
                one = one or (hits, p99)
                print(
                    f"{name:<10}{load:>6.2f}{label:>10}{hits:>10.1%}{hits / one[0]:>8.3f}", end=""
                )
                print(f"{ttft_ms.mean():>11.1f}{p99:>8.0f}{p99 / one[1]:>8.3f}", end="")
                print(f"{over:>9.0f}{failed:>8}", flush=True)


def _played(
    asked: argparse.Namespace, name: str, load: float, routers: int, delay_s: float | None
) -> tuple[float, np.ndarray, int, int]:
    """Hit rate, TTFTs in ms, most requests at a worker at once, failures: of all seeds."""
    compared = scenario(name)
    profile = block_sized(load_profile(asked.profile), 16)
    cached = prompts = failed = most = 0
    ttft_ms: list[np.ndarray] = []
    for seed in range(asked.seeds):
        shape = compared.shape(load * compared.knee_per_s, asked.duration, seed)
        whole = Scenario(
            choice=compared.choice,
            shape=shape,
            groups=((profile, _WORKERS),),
            routers=routers,
            news_delay_s=delay_s,
        )
        simulation = FleetSimulation(replace(whole.plan("cost"), seed=seed))
        simulation.run(open_workload(compared.choice, shape).requests())
        columns = simulation.columns
        counted = columns.is_complete() & (np.asarray(columns.arrived_s) >= _WARMUP_S)
        failed += int((~columns.is_complete()).sum())
        cached += int(np.asarray(columns.cached_tokens)[counted].sum())
        prompts += int(np.asarray(columns.prompt_tokens)[counted].sum())
        late_s = np.asarray(columns.first_s) - np.asarray(columns.arrived_s)
        ttft_ms.append(late_s[counted] * 1000)
        most = max(most, simulation.tally.in_flight_max)
    return cached / prompts, np.concatenate(ttft_ms), most, failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routers", type=int, default=3)
    parser.add_argument("--delay-ms", type=float, default=2.0)
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--profile", default="qwen3-32b-h100-tp2")
    parser.add_argument("--workloads", nargs="+", default=["sessions", "agents"])
    parser.add_argument("--loads", nargs="+", type=float, default=[1.0, 1.3])
    return parser.parse_args()


if __name__ == "__main__":
    main()
