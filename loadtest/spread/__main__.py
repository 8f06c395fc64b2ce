"""`python -m loadtest.spread`, which `make bench-spread` runs: see `--help`.

Time is virtual: the numbers are the same on every machine and under any load of it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from loadtest.spread.cases import CASES, LOAD, PROFILE, Case
from loadtest.spread.findings import Row, SpreadResult, Verdict, row_of, verdicts_of
from loadtest.spread.playing import capacity_per_s, play
from rhizome import __version__
from rhizome.clock import SystemClock

RESULTS = Path("loadtest") / "results"


def main() -> None:
    """Plays the cases; exits with 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.spread",
        description="How load and hot prefixes spread over simulated workers, in virtual time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="repeatable")
    parser.add_argument("--policy", action="append", help="instead of a case's own, repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals, prompts and ties")
    parser.add_argument("--output", type=Path, help="where the numbers go, as JSON")
    options = parser.parse_args()
    cases = [CASES[name] for name in options.case or CASES]
    capacities: dict[str, float] = {}
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for case in cases:
        say(f"{case.name}: {case.asks}")
        capacities[case.name] = capacity_per_s(case, options.seed)
        of_case = {}
        for policy in options.policy or case.policies:
            row = row_of(play(case, policy, capacities[case.name], options.seed))
            of_case[policy] = row
            say(_line(row))
        rows += of_case.values()
        if not options.policy:
            found = verdicts_of(of_case, of_case[case.policies[0]])
            verdicts += found
            for verdict in found:
                say(_said(verdict))
    result = SpreadResult(
        rhizome_version=__version__,
        command=shlex.join(["python", "-m", "loadtest.spread", *sys.argv[1:]]),
        profile=PROFILE,
        load=LOAD,
        seed=options.seed,
        cases={case.name: _facts(case, capacities[case.name]) for case in cases},
        rows=rows,
        verdicts=verdicts,
    )
    day = datetime.fromtimestamp(SystemClock().wall_s(), UTC).date()
    path = options.output or RESULTS / f"{day}-spread.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    say(f"wrote {path}")
    sys.exit(0 if all(verdict.holds for verdict in verdicts) else 1)


def say(words: str) -> None:
    """A line for whoever watches."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _line(row: Row) -> str:
    shares = " ".join(f"{share:.1%}" for share in row.shares)
    return (
        f"  {row.policy:<13}{row.rate_per_s:6.1f}/s  TTFT {row.ttft_ms_mean:6.1f} ms"
        f"  p99 {row.ttft_ms_p99:7.1f}  cached {row.cached_ratio:6.1%}"
        f"  in flight {row.in_flight_mean:5.1f}, max/mean {row.in_flight_max_over_mean:.2f}"
        f"  shares {shares}{_first_minute(row)}"
    )


def _first_minute(row: Row) -> str:
    newcomer = row.newcomer
    if newcomer is None:
        return ""
    said = f"\n{'':15}its first minute: {newcomer.requests} requests ({newcomer.share:.1%})"
    if newcomer.ttft_ms_mean is not None:
        said += f", TTFT {newcomer.ttft_ms_mean:.1f} ms, p99 {newcomer.ttft_ms_p99:.1f}"
    return f"{said}; the fleet's TTFT {newcomer.fleet_ttft_ms_mean:.1f} ms"


def _said(verdict: Verdict) -> str:
    bounds = []
    if verdict.at_least is not None:
        bounds.append(f">= {verdict.at_least:g}")
    if verdict.at_most is not None:
        bounds.append(f"<= {verdict.at_most:g}")
    word = "holds" if verdict.holds else "FAILS"
    return f"  {word}: {verdict.claim} {verdict.value:.3f} ({', '.join(bounds)})"


def _facts(case: Case, capacity: float) -> dict[str, object]:
    return {
        "asks": case.asks,
        "workload": msgspec.to_builtins(case.choice),
        "speeds": list(case.speeds),
        "duration_s": case.duration_s,
        "warmup_s": case.warmup_s,
        "capacity_per_s": capacity,
    }


if __name__ == "__main__":
    main()
