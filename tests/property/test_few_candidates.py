"""Few candidates as lists against the same as arrays: no policy may tell them apart."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.decisions.records import Considered
from router.scheduling.filters import with_room
from router.scheduling.policies import POLICY_NAMES, build_policy
from router.scheduling.types import (
    FEW,
    Candidate,
    Candidates,
    FewCandidates,
    Lists,
    RoutingRequest,
)

REQUEST = RoutingRequest("r", "m", prompt_tokens=1000, block_hashes=(1, 2, 3), session="s")
speeds = st.floats(0.001, 1e6)
candidates = st.lists(
    st.builds(
        Candidate,
        worker_id=st.just(""),
        match_tokens=st.integers(0, 999),
        in_flight=st.integers(0, 9),
        in_flight_max=st.integers(0, 9),
        queued_tokens=st.integers(0, 10**6),
        prefill_tokens_per_s=speeds,
        decode_step_ms=speeds,
        kv_usage=st.floats(0.0, 1.0),
        overhead_ms=st.floats(0.0, 1e4),
        attention_tokens=speeds | st.just(float("inf")),
        is_learned=st.booleans(),
    ),
    min_size=1,
    max_size=FEW,
)


def both(rows: list[Candidate]) -> tuple[Candidates, Candidates]:
    names = [f"w{place}" for place in range(len(rows))]
    columns = [[getattr(row, name) for row in rows] for name in Lists._fields]
    few = FewCandidates(names, Lists(*columns))
    return few, Candidates.of(few)


@given(candidates, st.sampled_from(sorted(POLICY_NAMES)), st.integers(0, 3))
def test_a_policy_chooses_the_same_whether_candidates_are_lists_or_arrays(
    rows: list[Candidate], policy: str, seed: int
) -> None:
    few, many = (with_room(offered) for offered in both(rows))
    assert list(few) == list(many)
    if not few:
        return
    one, other = (
        build_policy(policy).choose(REQUEST, offered, Random(seed)) for offered in (few, many)
    )
    assert one.chosen == other.chosen
    assert (one.reason, one.should_wait) == (other.reason, other.should_wait)
    assert list(one.costs) == list(other.costs)
    kept, known = Considered.of(few, one, FEW), Considered.of(many, other, FEW)
    assert np.array_equal(kept.columns, known.columns)
    assert kept.chosen == known.chosen
