"""The ring of decisions: bounded by count and bytes, the oldest give way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rhizome.outcome import Outcome
from rhizome.settings.tree import DecisionSettings
from router.decisions.records import Decision, Ending
from router.decisions.ring import DecisionRing
from tests.unit.router.decisions.test_records import decision_of


def request(name: str, at_s: float = 0.0) -> Decision:
    return Decision(name, "/v1/chat/completions", "m", "anonymous", "interactive", True, at_s)


def ended(ring: DecisionRing, name: str, at_s: float = 0.0) -> Decision:
    decision = request(name, at_s)
    ring.begin(decision)
    decision.ended(Ending(Outcome.COMPLETED, at_s + 1), None)
    ring.end(decision)
    return decision


def test_running_and_ended_requests_are_found_and_the_oldest_give_way() -> None:
    ring = DecisionRing(DecisionSettings(count_max=2))
    running = request("running", 10.0)
    ring.begin(running)
    for number in range(4):
        ended(ring, f"r{number}", float(number))
    assert ring.get("running") is running
    assert ring.get("r0") is None
    assert [one.request_id for one in ring.latest(2)] == ["running", "r3"]
    assert (len(ring), ring.forgotten) == (2, 2)
    oldest = ring.oldest()
    assert oldest is not None
    assert oldest.request_id == "r2"


def test_of_two_requests_with_one_id_the_later_is_found_and_outlives_the_earlier() -> None:
    ring = DecisionRing(DecisionSettings(count_max=2))
    ended(ring, "same")
    second = ended(ring, "same")
    ended(ring, "other")
    assert ring.get("same") is second
    ring.check_invariants()


def test_nothing_is_kept_where_nothing_is_to_be_kept() -> None:
    told: list[Decision] = []
    ring = DecisionRing(DecisionSettings(count_max=0), told.append)
    decision = ended(ring, "r")
    assert len(ring) == 0
    assert told == [decision], "others still learn of its end"


@given(
    sizes=st.lists(st.integers(1, 30), max_size=60),
    count_max=st.integers(0, 20),
    bytes_max=st.integers(0, 30_000),
)
def test_bounds_hold_whatever_comes(sizes: list[int], count_max: int, bytes_max: int) -> None:
    ring = DecisionRing(DecisionSettings(count_max=count_max, bytes_max=bytes_max))
    running: list[Decision] = []
    for number, size in enumerate(sizes):
        decision = decision_of([0] * size)
        decision.request_id = f"r{number % 7}"
        ring.begin(decision)
        running.append(decision)
        if size % 3:
            done = running.pop(size % len(running))
            done.ended(Ending(Outcome.COMPLETED, 1.0), None)
            ring.end(done)
        ring.check_invariants()
    assert len(ring.latest(1000)) == len(running) + len(ring)
