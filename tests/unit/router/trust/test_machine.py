"""Trust in one target: how it is lost, what is named as the cause, and how it comes back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.trust.causes import MEANING, Cause, State
from router.trust.machine import Change, Trust
from router.trust.observations import EventsSeen, Observation, Traits

GOOD = Observation(
    prompt_tokens=100,
    engine_tokens=100,
    cached_tokens=96,
    block_size=16,
    announced_blocks=6,
    matched_blocks=6,
    found_blocks=6,
    events=EventsSeen(batches=1),
    blocks_max=1000,
)
COLD = replace(
    GOOD,
    cached_tokens=0,
    announced_blocks=0,
    matched_blocks=0,
    events=EventsSeen(batches=1, stored=6),
)
CHAT = Traits(chat=True)


def proven() -> Trust:
    trust = Trust(announces=True)
    assert trust.observe(GOOD) is not None
    return trust


def feed(trust: Trust, *seen: Observation, times: int = 1) -> list[Change]:
    changes = [trust.observe(one) for _ in range(times) for one in seen]
    trust.check_invariants()
    return [change for change in changes if change is not None]


def checks_until(trust: Trust, state: State, *seen: Observation) -> int:
    for number in range(1, 60):
        for one in seen:
            trust.observe(one)
        if trust.state is state:
            return number
    raise AssertionError(f"never {state}")


def test_one_agreement_proves_a_new_target() -> None:
    trust = Trust(announces=True)
    assert (trust.state, trust.cause, trust.credit_scale) == (State.DEGRADED, Cause.UNPROVEN, 1.0)
    assert feed(trust, COLD) == [Change(State.DEGRADED, State.EXACT, Cause.NONE, 1)]


def test_a_new_target_whose_first_check_fails_says_why_at_once() -> None:
    wrong = replace(COLD, found_blocks=0, events=EventsSeen(mismatched=3))
    trust = Trust(announces=True)
    assert feed(trust, wrong) == [Change(State.DEGRADED, State.DEGRADED, Cause.BLOCK_SIZE, 1)]


def test_three_certain_disagreements_degrade_and_eight_end_credit() -> None:
    cleared = replace(GOOD, cached_tokens=0)
    trust = proven()
    assert checks_until(trust, State.DEGRADED, cleared) == 3
    assert trust.cause is Cause.DEAD_BLOCKS
    trust = proven()
    assert checks_until(trust, State.FALLBACK, cleared) == 8


def test_trust_comes_back_step_by_step() -> None:
    trust = proven()
    feed(trust, replace(GOOD, engine_tokens=104), times=20)
    assert trust.state is State.FALLBACK
    assert checks_until(trust, State.DEGRADED, GOOD) == 4, "from the deepest doubt"
    assert checks_until(trust, State.EXACT, GOOD) == 7
    assert trust.cause is Cause.NONE


def test_a_single_disagreement_now_and_then_changes_nothing() -> None:
    trust = proven()
    for _ in range(50):
        assert not feed(trust, replace(GOOD, cached_tokens=0))
        assert not feed(trust, GOOD, times=5)


@pytest.mark.parametrize(
    ("seen", "agrees"),
    [
        (replace(GOOD, cached_tokens=80), True),
        (replace(GOOD, matched_blocks=6, announced_blocks=0, cached_tokens=0), True),
        (replace(GOOD, announced_blocks=2, matched_blocks=2, cached_tokens=96), True),
        (replace(GOOD, traits=Traits(computes_all=True), cached_tokens=0), True),
        (replace(GOOD, cached_tokens=None), True),
        (replace(GOOD, found_blocks=None), None),
        (replace(GOOD, found_blocks=0, events=EventsSeen(removed=251)), None),
        (replace(GOOD, found_blocks=0, events=EventsSeen(lost=1)), None),
        (replace(GOOD, prompt_tokens=9, engine_tokens=9, cached_tokens=0, found_blocks=0), None),
    ],
    ids=[
        "one block less than announced",
        "a prediction that was not confirmed yet",
        "more than was known, and known now",
        "a request that computes its whole prompt",
        "an engine that does not report reuse",
        "events that are suspended",
        "an eviction that may have taken it",
        "events that were lost meanwhile",
        "a prompt without a full block",
    ],
)
def test_races_are_not_faults(seen: Observation, agrees: bool | None) -> None:
    trust = proven()
    before = trust.checks
    assert not feed(trust, seen, times=40)
    assert trust.state is State.EXACT
    assert (trust.checks > before) == (agrees is not None)


def test_a_shortfall_while_blocks_are_evicted_weighs_little_and_yet_counts() -> None:
    short = replace(GOOD, cached_tokens=16, events=EventsSeen(removed=3))
    trust = proven()
    assert not feed(trust, *[GOOD, short, GOOD], times=60)
    assert 15 < checks_until(proven(), State.DEGRADED, short) < 30


@pytest.mark.parametrize(
    ("wrong", "right", "cause"),
    [
        ([replace(COLD, found_blocks=0, events=EventsSeen(mismatched=6))], [], Cause.BLOCK_SIZE),
        ([replace(COLD, engine_tokens=101)], [], Cause.SPECIAL_TOKENS),
        (
            [replace(GOOD, engine_tokens=one, traits=CHAT) for one in (103, 108)],
            [replace(GOOD, traits=Traits(chat=False))],
            Cause.CHAT_TEMPLATE,
        ),
        (
            [replace(GOOD, engine_tokens=110, traits=Traits(chat=True, tools=True))],
            [replace(GOOD, traits=CHAT)],
            Cause.TOOLS,
        ),
        ([replace(GOOD, engine_tokens=one) for one in (103, 108)], [], Cause.TOKENIZER),
        (
            [replace(GOOD, prompt_tokens=one, engine_tokens=64) for one in (100, 200)],
            [],
            Cause.TRUNCATION,
        ),
        (
            [replace(GOOD, engine_tokens=200, traits=Traits(chat=True, several=True))],
            [replace(GOOD, traits=CHAT)],
            Cause.SEVERAL_ANSWERS,
        ),
        ([replace(COLD, found_blocks=0, events=EventsSeen(stored=6, adapted=6))], [], Cause.LORA),
        (
            [replace(COLD, found_blocks=0, events=EventsSeen(stored=6, salted=1))],
            [],
            Cause.CACHE_SALT,
        ),
        ([replace(COLD, found_blocks=2, events=EventsSeen(not_text=4))], [], Cause.MEDIA),
        ([replace(GOOD, found_blocks=0, events=EventsSeen())], [], Cause.EVENTS_MISSING),
        (
            [replace(GOOD, found_blocks=0, events=EventsSeen(unknown_parent=4))],
            [],
            Cause.EVENTS_MISSING,
        ),
        (
            [replace(COLD, found_blocks=0, events=EventsSeen())],
            [],
            Cause.PREFIX_CACHING_OFF,
        ),
    ],
)
def test_the_likely_cause_is_named(
    wrong: list[Observation], right: list[Observation], cause: Cause
) -> None:
    trust = proven()
    feed(trust, *right)
    assert checks_until(trust, State.DEGRADED, *wrong) <= 3
    feed(trust, *wrong, *right, times=12)
    assert trust.cause is cause


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        (EventsSeen(undecodable=1), Cause.EVENT_FORMAT),
        (EventsSeen(unknown_events=2), Cause.EVENT_FORMAT),
        (EventsSeen(conflicts=1, lost=1), Cause.BLOCK_HASHES),
        (EventsSeen(lost=3, cleared=3), Cause.EVENTS_LOST),
    ],
)
def test_a_trouble_with_events_counts_once_each_time(events: EventsSeen, cause: Cause) -> None:
    trust = proven()
    changes = [trust.trouble(events) for _ in range(3)]
    assert changes == [None, None, Change(State.EXACT, State.DEGRADED, cause, 3)]
    assert trust.trouble(EventsSeen(batches=9, stored=4)) is None


def test_a_gap_that_heals_now_and_then_changes_nothing() -> None:
    trust = proven()
    for _ in range(30):
        assert trust.trouble(EventsSeen(lost=1)) is None
        feed(trust, GOOD)
    assert trust.state is State.EXACT
    new = Trust(announces=True)
    assert new.trouble(EventsSeen(lost=5)) is None
    assert new.cause is Cause.UNPROVEN


def test_without_events_reuse_is_measured_and_prefix_caching_off_is_told_once() -> None:
    trust = Trust(announces=False)
    assert (trust.state, trust.cause) == (State.FALLBACK, Cause.NO_EVENTS)
    told = [trust.reused(600, 0) for _ in range(30)]
    assert [one for one in told if one is not None] == [
        Change(State.FALLBACK, State.FALLBACK, Cause.PREFIX_CACHING_OFF, 0)
    ]
    assert trust.credit_scale < 0.05
    back = trust.reused(600, 592)
    assert back is not None
    assert back.cause is Cause.NO_EVENTS
    for _ in range(30):
        trust.reused(600, 592)
    assert trust.credit_scale > 0.9


def test_credit_is_scaled_by_what_was_reused_unless_all_is_exact() -> None:
    trust = proven()
    for _ in range(30):
        trust.reused(1000, 400)
    assert trust.credit_scale == 1.0
    feed(trust, replace(GOOD, cached_tokens=0), times=3)
    assert trust.state is State.DEGRADED
    assert 0.39 < trust.credit_scale < 0.42


def test_every_cause_has_a_meaning() -> None:
    assert set(MEANING) == set(Cause)


@given(
    st.lists(
        st.builds(
            Observation,
            prompt_tokens=st.integers(1, 400),
            engine_tokens=st.integers(0, 400),
            cached_tokens=st.none() | st.integers(0, 400),
            block_size=st.just(16),
            announced_blocks=st.integers(0, 25),
            matched_blocks=st.integers(0, 25),
            found_blocks=st.none() | st.integers(0, 25),
            events=st.builds(
                EventsSeen, stored=st.integers(0, 3), removed=st.integers(0, 600), lost=st.just(0)
            ),
            blocks_max=st.sampled_from([None, 100, 1000]),
            traits=st.builds(Traits),
        ),
        max_size=80,
    ),
    st.booleans(),
)
def test_whatever_is_seen_the_parts_agree_and_changes_tell_all(
    all_seen: list[Observation], announces: bool
) -> None:
    trust = Trust(announces=announces)
    state, cause = trust.state, trust.cause
    for seen in all_seen:
        if seen.matched_blocks and seen.cached_tokens is not None:
            change = trust.reused(seen.matched_blocks * 16, seen.cached_tokens)
            assert (change is None) == (cause is trust.cause)
            cause = trust.cause
        change = trust.observe(seen)
        assert (change is None) == ((state, cause) == (trust.state, trust.cause))
        if change is not None:
            assert change.before is state
            assert (change.after, change.cause) == (trust.state, trust.cause)
        state, cause = trust.state, trust.cause
        trust.check_invariants()
