"""Generated workloads: seeded, ordered, bounded, and of the shape that they promise."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from random import Random

import pytest

from loadtest.workloads.catalog import KINDS, Choice, open_workload
from loadtest.workloads.draws import Zipf, length_about, turns_about
from loadtest.workloads.requests import Role, TracedRequest, block_keys
from loadtest.workloads.shaping import Shape
from rhizome.errors import SettingsError

GENERATORS = [name for name, kind in KINDS.items() if kind.make is not None]


def made(name: str, count: int = 1500, **settings: object) -> list[TracedRequest]:
    choice = Choice(name=name, settings=settings)
    shape = Shape(rate_per_s=20.0, requests_max=count, seed=5)
    return list(open_workload(choice, shape).requests())


@pytest.mark.parametrize("name", GENERATORS)
def test_the_same_seed_makes_the_same_requests_and_another_one_others(name: str) -> None:
    choice, shape = Choice(name=name), Shape(rate_per_s=20.0, requests_max=50, seed=1)
    workload = open_workload(choice, shape)
    assert list(workload.requests()) == list(workload.requests())
    other = open_workload(choice, Shape(rate_per_s=20.0, requests_max=50, seed=2))
    assert list(workload.requests()) != list(other.requests())


@pytest.mark.parametrize("name", GENERATORS)
def test_requests_come_in_order_at_about_the_rate(name: str) -> None:
    requests = made(name)
    assert all(one.at_s <= two.at_s for one, two in pairwise(requests))
    assert [one.number for one in requests] == list(range(1500))
    assert len(requests) / requests[-1].at_s == pytest.approx(20.0, rel=0.3)
    assert all(one.prompt_len > 0 and one.output_len > 0 for one in requests)


def reuse(requests: list[TracedRequest]) -> float:
    """Share of prompt blocks that an endless cache would hold."""
    seen: set[int] = set()
    hits = blocks = 0
    for request in requests:
        keys = block_keys(request.segments, 16)
        hits += sum(key in seen for key in keys)
        blocks += len(keys)
        seen.update(keys)
    return hits / blocks


def test_the_controls_share_what_they_say() -> None:
    assert reuse(made("no-sharing")) == 0.0
    assert reuse(made("decode-heavy")) == 0.0
    assert reuse(made("one-prefix")) > 0.9
    assert 0.5 < reuse(made("zipf-prefixes")) < 0.95


def test_popularity_follows_zipf() -> None:
    drawn = Zipf(100, 1.2)
    rng = Random(7)
    counts = Counter(drawn.draw(rng) for _ in range(40_000))
    for rank in (1, 3, 9):
        assert counts[0] / counts[rank] == pytest.approx((rank + 1) ** 1.2, rel=0.2)


def test_system_prompts_are_shared_by_zipf_among_sessions() -> None:
    requests = made("sessions", 3000, zipf=1.5, system_prompts=10)
    firsts = {one.session: one.segments[0] for one in requests}
    counts = Counter(segment.key for segment in firsts.values()).most_common()
    assert len(counts) <= 10
    assert counts[0][1] > 2 * counts[1][1]


def test_a_session_repeats_all_that_was_said() -> None:
    requests = made("sessions", 3000)
    by_session: dict[str, list[TracedRequest]] = {}
    for request in requests:
        by_session.setdefault(request.session, []).append(request)
    grown = [turns for turns in by_session.values() if len(turns) > 2]
    assert len(grown) > 100
    for turns in grown:
        for before, after in pairwise(turns):
            held = len(before.segments)
            assert after.segments[:held] == before.segments
            answer = after.segments[held]
            assert (answer.key, answer.tokens) == (before.answer_key, before.output_len)
            assert answer.role is Role.ASSISTANT


def test_branches_of_an_agent_begin_together_with_one_prefix() -> None:
    requests = made("agents", 3000)
    forks = [
        (one, two)
        for one, two in pairwise(sorted(requests, key=lambda each: (each.session, each.at_s)))
        if one.session == two.session and one.at_s == two.at_s
    ]
    assert forks
    for one, two in forks:
        assert one.segments[:-1] == two.segments[:-1]
        assert one.segments[-1] != two.segments[-1]


def test_a_steady_load_is_steady_from_the_start() -> None:
    for name in ("sessions", "agents"):
        requests = made(name, 3000)
        first = sum(one.at_s < 20.0 for one in requests)
        assert first == pytest.approx(400, rel=0.4), name


def test_sessions_end_before_their_prompts_are_too_long() -> None:
    requests = made("sessions", 2000, prompt_tokens_max=2500, turns=30)
    later = [one for one in requests if len(one.segments) > 3]
    assert max(one.prompt_len for one in later) <= 2500


def test_lengths_and_turns_have_their_means() -> None:
    rng = Random(2)
    lengths = [length_about(rng, 200) for _ in range(20_000)]
    turns = [turns_about(rng, 5.0) for _ in range(20_000)]
    assert sum(lengths) / len(lengths) == pytest.approx(200, rel=0.05)
    assert sum(turns) / len(turns) == pytest.approx(5.0, rel=0.05)
    assert (min(lengths) >= 1, max(lengths) <= 1600, min(turns)) == (True, True, 1)
    assert {turns_about(rng, 1.0) for _ in range(10)} == {1}


def test_tenants_get_sessions_by_weight_and_keep_them() -> None:
    shape = Shape(rate_per_s=20.0, requests_max=4000, tenants={"a": 3.0, "b": 1.0})
    requests = list(open_workload(Choice(name="sessions"), shape).requests())
    tenants = {(one.session, one.tenant) for one in requests}
    assert len(tenants) == len({one.session for one in requests})
    shares = Counter(tenant for _, tenant in tenants)
    assert shares["a"] / shares["b"] == pytest.approx(3.0, rel=0.25)


def test_an_endless_workload_takes_bounded_memory_and_is_lazy() -> None:
    workload = open_workload(Choice(name="sessions"), Shape(rate_per_s=1000.0, duration_s=1e6))
    assert len(list(islice(workload.requests(), 10))) == 10


@pytest.mark.parametrize(
    ("choice", "shape", "said"),
    [
        (Choice(name="session"), Shape(duration_s=1.0), "did you mean 'sessions'"),
        (Choice(name="sessions", settings={"turn": 3}), Shape(duration_s=1.0), "turn"),
        (Choice(name="sessions", settings={"turns": "x"}), Shape(duration_s=1.0), "turns"),
        (Choice(name="sessions"), Shape(), "has no end"),
        (Choice(name="sessions", trace="t"), Shape(duration_s=1.0), "a trace does not fit"),
        (Choice(name="mooncake", curve="built-in"), Shape(), "a rate curve does not fit"),
        (Choice(name="mooncake"), Shape(rate_per_s=0.0), "rate_per_s must be above 0"),
        (Choice(name="mooncake"), Shape(tenants={"a": -1.0}), "the weight of tenant 'a'"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: Choice, shape: Shape, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_workload(choice, shape)
    assert said in caught.value.message


def test_settings_given_as_text_count() -> None:
    workload = open_workload(
        Choice(name="one-prefix", settings={"prefix_tokens": "77"}), Shape(requests_max=3)
    )
    assert {one.segments[0].tokens for one in workload.requests()} == {77}
    assert workload.facts["settings"]["prefix_tokens"] == 77
