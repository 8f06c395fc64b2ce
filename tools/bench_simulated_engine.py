"""How many requests a second the simulated scheduler gets through, for a fleet under one clock.

Sessions of several turns, each with all turns before it as its prefix, stay on one engine each.
Run it as `python -m tools.bench_simulated_engine`; `--single` takes decode steps one by one.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import time
from functools import partial

from workers.engine.simulated.profile import load_profile
from workers.engine.simulated.requests import SimRequest
from workers.engine.simulated.scheduler import Scheduler

_SYSTEM_TOKENS, _TURNS, _TURN_TOKENS, _OUTPUT_TOKENS, _PAUSE_S = 1500, 5, 3000, 300, 20.0
_KEY_BITS = 20


def sessions(
    rng: random.Random, count: int, rate: float, size: int
) -> list[tuple[int, SimRequest]]:
    """`(session, request)` in order of arrival; `rate` is in requests a second."""
    load: list[tuple[int, SimRequest]] = []
    begins_s = 0.0
    for session in range(count // _TURNS):
        begins_s += rng.expovariate(rate / _TURNS)
        shared = [-1 - block for block in range(_SYSTEM_TOKENS // size)]
        at_s, tokens = begins_s, _SYSTEM_TOKENS
        for turn in range(_TURNS):
            tokens += max(1, round(rng.lognormvariate(0.0, 0.8) * _TURN_TOKENS / 1.4))
            output = max(1, round(rng.expovariate(1 / _OUTPUT_TOKENS)))
            own_blocks = range(len(shared), tokens // size)
            keys = tuple(shared + [session << _KEY_BITS | block for block in own_blocks])
            load.append(
                (
                    session,
                    SimRequest(
                        f"{session}.{turn}",
                        tokens,
                        keys,
                        output,
                        at_s,
                        decode_key=partial(_key, session),
                    ),
                )
            )
            tokens += output
            at_s += rng.expovariate(1 / _PAUSE_S)
    return sorted(load, key=lambda entry: entry[1].arrival_s)


def _key(session: int, block: int) -> int:
    return session << _KEY_BITS | block


def simulate(
    engines: list[Scheduler], load: list[tuple[int, SimRequest]]
) -> tuple[int, int, float]:
    """Rows of steps, tokens, and virtual seconds that it took."""
    wakes: list[tuple[float, int]] = []
    due_s: list[float | None] = [None] * len(engines)
    rows = tokens = done = 0
    now_s = 0.0

    def settle(number: int, until_s: float) -> None:
        nonlocal rows, tokens
        for step in engines[number].advance(until_s):
            rows += 1
            tokens += sum(step.tokens.values())

    while done < len(load) or wakes:
        if done < len(load) and (not wakes or load[done][1].arrival_s <= wakes[0][0]):
            session, request = load[done]
            number, now_s = session % len(engines), request.arrival_s
            done += 1
            settle(number, now_s)
            engines[number].add(request)
        else:
            now_s, number = heapq.heappop(wakes)
            if due_s[number] != now_s:
                continue
            settle(number, now_s)
        due_s[number] = wake_s = engines[number].next_event_s()
        if wake_s is not None:
            heapq.heappush(wakes, (wake_s, number))
    return rows, tokens, now_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="qwen3-32b-h100-tp2")
    parser.add_argument("--engines", type=int, default=100)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=1.5, help="requests a second and engine")
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--single", action="store_true")
    arguments = parser.parse_args()
    base = load_profile(arguments.profile)
    size = arguments.block_size
    profile = base.model_copy(update={"block_size": size, "kv_blocks": base.kv_tokens // size + 1})
    rate = arguments.rate * arguments.engines
    load = sessions(random.Random(1), arguments.requests, rate, size)
    load = [
        entry
        for entry in load
        if entry[1].prompt_len + entry[1].output_len <= profile.max_model_len
    ]
    engines = [Scheduler(profile, fuse=not arguments.single) for _ in range(arguments.engines)]
    start = time.process_time()
    rows, tokens, span_s = simulate(engines, load)
    cpu = time.process_time() - start
    prompt = sum(request.prompt_len for _, request in load)
    sys.stdout.write(
        f"{len(load)} requests ({prompt / len(load):.0f} prompt tokens), {tokens} tokens,"
        f" {span_s:.0f} virtual s in {cpu:.2f} s: {len(load) / cpu:.0f} requests a CPU second,"
        f" {rows / len(load):.1f} rows a request, {tokens / cpu:.0f} tokens a CPU second,"
        f" {sum(engine.preemptions for engine in engines)} preemptions\n"
    )


if __name__ == "__main__":
    main()
