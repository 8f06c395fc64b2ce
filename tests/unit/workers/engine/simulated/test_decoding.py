from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.simulated.decoding import SAME_S, Row


@given(
    st.floats(0.0, 1e5),
    st.floats(1e-4, 1.0),
    st.one_of(st.just(0.0), st.floats(1e-9, 1e-2)),
    st.integers(1, 3000),
    st.floats(-0.1, 1.5),
)
def test_steps_by_a_time_are_all_that_end_until_then(
    start_s: float, first_s: float, growth_s: float, steps: int, share: float
) -> None:
    row = Row(start_s, first_s, growth_s, steps)
    until_s = start_s + share * (row.end_s(steps) - start_s)
    ended = row.steps_by(until_s)
    last_s = until_s + SAME_S
    assert 0 <= ended <= steps
    assert ended == 0 or row.end_s(ended) <= last_s
    assert ended == steps or row.end_s(ended + 1) > last_s


@given(st.integers(1, 500))
def test_the_end_of_each_step_is_reached_exactly(step: int) -> None:
    row = Row(1234.5, 0.0137, 1e-6, 500)
    assert row.steps_by(row.end_s(step)) == step
