"""What explaining costs: choosing, noting what was considered, shadow policies, the key check.

    python -m tools.bench_decisions

CPU time for one request each, the least of several rounds, in microseconds.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from random import Random

from rhizome.ids import hash_of, new_key
from rhizome.outcome import Outcome
from rhizome.settings.tree import DecisionSettings
from router.decisions.records import Attempt, Considered, Decision, Ending
from router.decisions.ring import DecisionRing
from router.decisions.shadows import Shadows
from router.keys import KeyRing, parse_keys
from router.scheduling.policies import POLICY_NAMES, build_policy
from router.scheduling.types import Candidate, Candidates, RoutingRequest

_FLEETS = (8, 32, 64, 256)
_ROUNDS, _TIMES = 7, 4000
_SETTINGS = DecisionSettings()


def main() -> None:
    print(f"{'workers':<28}" + "".join(f"{count:>8}" for count in _FLEETS))
    columns = [_of_fleet(count) for count in _FLEETS]
    for name in columns[0]:
        print(f"{name:<28}" + "".join(f"{column[name]:>8.1f}" for column in columns))
    for count in (1, 1000):
        print(f"{f'key check, {count} keys':<28}{_key_check(count):>8.1f}")


def _of_fleet(count: int) -> dict[str, float]:
    candidates = Candidates.of(
        Candidate(f"w{n}", 7 * n % 900, n % 5, 64, 13 * n, 4000.0, 20.0, 0.1, 5.0)
        for n in range(count)
    )
    request = RoutingRequest("r", "m", 1000, list(range(60)))
    policy, rng, ring = build_policy("cost"), Random(1), DecisionRing(_SETTINGS)
    choice = policy.choose(request, candidates, rng)

    def note() -> None:
        decision = Decision("r", "/v1/completions", "m", "alice", "interactive", True, 1.0)
        ring.begin(decision)
        considered = Considered.of(candidates, choice, _SETTINGS.candidates_max)
        decision.chose(Attempt.of("cost", request, choice, considered))
        decision.ended(Ending(Outcome.COMPLETED, 2.0, 200, None, 1000, 10, 10), 5.0)
        ring.end(decision)

    found = {
        "choose (cost)": _us(lambda: policy.choose(request, candidates, rng)),
        "note the whole request": _us(note),
    }
    for name in POLICY_NAMES:
        shadows = Shadows([build_policy(name)], 1.0, Random(1))
        found[f"shadow {name}"] = _us(lambda: shadows.compare(request, candidates, choice))  # noqa: B023 - called at once
    tenth = Shadows([build_policy("cost")], 0.1, Random(1))
    found["shadow cost, a tenth"] = _us(lambda: tenth.compare(request, candidates, choice))
    return found


def _key_check(count: int) -> float:
    keys = [new_key() for _ in range(count)]
    ring = KeyRing(parse_keys("\n".join(f"k{n}: {hash_of(key)}" for n, key in enumerate(keys))))
    header = f"Bearer {keys[-1]}".encode()
    return _us(lambda: ring.check(header))


def _us(work: Callable[[], object]) -> float:
    return (
        min(timeit.repeat(work, timer=time.process_time, number=_TIMES, repeat=_ROUNDS))
        / _TIMES
        * 1e6
    )


if __name__ == "__main__":
    main()
