"""How far simulated timings are from measured ones: writes docs/calibration.md's tables.

`python -m tools.bench_calibration` needs nothing but the data that ships with the package.
`python -m tools.bench_calibration --cpu` starts a real vLLM of each demonstration model, measures
it, plays mixed workloads on it and simulates the same arrivals.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from loadtest.calibration.evaluation import (
    Evaluated,
    compare,
    evaluate_published,
    evaluate_run,
    logged_runs,
    published_sets,
    save,
    table,
)
from loadtest.calibration.live import Mix, play
from loadtest.calibration.machine import machine_facts
from loadtest.calibration.measuring import Course, Measuring
from loadtest.calibration.probes import Prompts
from loadtest.calibration.replay import replay_open
from loadtest.calibration.target import EngineTarget, open_session
from loadtest.calibration.writing import Given, profile_of, write_profile
from rhizome.clock import SystemClock

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "calibration.md"
RESULTS = ROOT / "loadtest" / "results"
SMALL_BUDGET = 2_048
STOP_S = 30.0
REPEATS = 3
MODELS = {
    "demo:llama": Mix(rate_rps=1.2, requests=50),
    "demo:mixtral": Mix(rate_rps=4.0, requests=120),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="against real vLLM on this machine")
    parser.add_argument("--budget-s", type=float, default=120.0, help="of one calibration")
    options = parser.parse_args()
    if options.cpu:
        asyncio.run(_on_this_machine(options.budget_s))
    else:
        _offline()


def _offline() -> None:
    """The published averages and the logged runs, on all cores."""
    sets = published_sets()
    with ProcessPoolExecutor() as pool:
        averages = list(pool.map(evaluate_published, sets))
        guesses = [each for each in sets if each.length_ratio == 1.0]
        averages += pool.map(evaluate_published, guesses, [SMALL_BUDGET] * len(guesses))
        runs = [each for found in pool.map(evaluate_run, logged_runs()) for each in found]
    command = "make bench-calibration"
    save(RESULTS / "calibration-published.json", command, {}, averages)
    save(RESULTS / "calibration-logged-runs.json", command, {}, runs)
    _insert("published", table(averages))
    _insert("logged-runs", table(runs))


async def _on_this_machine(budget_s: float) -> None:
    """Real vLLM on this machine's processor, one model after the other."""
    found: list[Evaluated] = []
    facts: dict[str, Any] = {"machine": machine_facts(), "profiles": []}
    for model, mix in MODELS.items():
        async with _worker(model) as (url, key), open_session(key) as session:
            target = EngineTarget(session, url, SystemClock())
            found += await _calibrate_and_play(target, model, mix, budget_s, facts)
    save(RESULTS / "calibration-cpu.json", "make bench-calibration-cpu", facts, found)
    _insert("cpu", table(found))


async def _calibrate_and_play(
    target: EngineTarget, model: str, mix: Mix, budget_s: float, facts: dict[str, Any]
) -> list[Evaluated]:
    clock = SystemClock()
    course = Course(time_s=budget_s)

    def told(share: float, words: str) -> None:
        _say(f"{model}: {share:4.0%} {words}")

    measured = await Measuring(target, course, clock, told).run(None)
    command = f"make bench-calibration-cpu (budget {budget_s:g} s)"
    given = Given(name=f"cpu-{model.removeprefix('demo:')}", gpu="CPU", gpus=0)
    profile = profile_of(measured, given, command, machine_facts())
    write_profile(profile, RESULTS / f"profile-{profile.name}.json")
    facts["profiles"].append(profile.model_dump(mode="json", exclude_none=True))
    found, first_seen = [], None
    for repeat in (*range(1, REPEATS + 1), 1):
        told(1.0, f"mixed workload, seed {repeat}")
        prompts = Prompts(Random(clock.wall_s()), measured.vocabulary)
        sent, seen = await play(target, mix.demands(Random(repeat)), prompts, clock)
        load = f"load average {machine_facts()['load_average_1min']:.1f}"
        how = f"{mix.rate_rps:g} requests/s, seed {repeat}; {load}"
        found.append(compare(profile.name, how, replay_open(profile, sent), seen))
        if first_seen is None:
            first_seen = seen
    how = f"no simulation: the real engine's second run of seed 1 against its first; {load}"
    found.append(compare(profile.name, how, seen, first_seen or []))
    return found


@asynccontextmanager
async def _worker(model: str) -> AsyncIterator[tuple[str, str]]:
    """A real worker in a process of its own: its URL and key."""
    with tempfile.TemporaryDirectory(prefix="rhizome-calibration-") as folder:
        key_file = Path(folder) / "key"
        command = ("-m", "rhizome.cli.main", "worker", "--model", model, "--key-file", key_file)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *map(str, command), stdout=-1, stderr=-3
        )
        try:
            yield await _address(process), key_file.read_text().strip()
        finally:
            process.terminate()
            async with asyncio.timeout(STOP_S):
                await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async for line in process.stdout:
        address = re.search(r" at (http://\S+)", line.decode(errors="replace"))
        if address is not None:
            return address[1]
    raise SystemExit("the worker ended before it served anything: run `rhizome worker` to see why")


def _insert(name: str, text: str) -> None:
    """Replaces what stands between the document's marks of that name."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(end)
    DOCUMENT.write_text(f"{before}{begin}{text}{end}{after}")
    _say(text)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
