"""Random workloads on the simulated scheduler: the books balance, and rows equal single steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import isclose

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.simulated_runs import Ledger, keys_of, profile, request, run
from workers.engine.simulated.cache import Removed, Stored
from workers.engine.simulated.decoding import SAME_S
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import SimRequest
from workers.engine.simulated.scheduler import Scheduler

_TOKENS_MAX = 60


@dataclass(frozen=True)
class Load:
    """An engine and everything that happens to it."""

    profile: EngineProfile
    requests: tuple[SimRequest, ...]
    aborts: tuple[tuple[float, str], ...]


@st.composite
def profiles(draw: st.DrawFn) -> EngineProfile:
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    full = -(-_TOKENS_MAX // block_size)
    return profile(
        block_size=block_size,
        kv_blocks=full + 1 + draw(st.integers(0, 2 * full)),
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.sampled_from([3, 7, 16, 64])),
        long_prefill_token_threshold=draw(st.sampled_from([0, 5])),
        watermark=draw(st.sampled_from([0.0, 0.1])),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        prefix_caching=draw(st.sampled_from([True, True, True, False])),
        async_scheduling=draw(st.booleans()),
        c_ms_per_ktok=draw(st.sampled_from([0.0, 7.0, 900.0])),
    )


@st.composite
def loads(draw: st.DrawFn) -> Load:
    engine = draw(profiles())
    requests: list[SimRequest] = []
    aborts = []
    arrival_s = 0.0
    for number in range(draw(st.integers(1, 12))):
        arrival_s += draw(st.sampled_from([0.0, 0.0, 0.001, 0.03, 0.4]))
        output_len = draw(st.integers(1, 30))
        # Texts branch: few first blocks, more ways to go on, so that prefixes are shared.
        text = draw(st.lists(st.integers(0, 1), min_size=1, max_size=8))
        requests.append(
            request(
                f"r{number}",
                draw(st.integers(1, _TOKENS_MAX - output_len)),
                output_len,
                text=text,
                arrival_s=arrival_s,
                priority=draw(st.integers(0, 2)),
                block_size=engine.block_size,
            )
        )
        if draw(st.integers(0, 4)) == 0:
            aborts.append((arrival_s + draw(st.sampled_from([0.0, 0.02, 0.2])), f"r{number}"))
    return Load(engine, tuple(requests), tuple(aborts))


def _play(load: Load, *, fuse: bool) -> tuple[Scheduler, Ledger]:
    scheduler = Scheduler(load.profile, fuse=fuse)
    return scheduler, run(scheduler, load.requests, load.aborts)


def _assert_same_times(left: dict[str, float], right: dict[str, float]) -> None:
    assert left.keys() == right.keys()
    for name, at_s in left.items():
        assert isclose(at_s, right[name], rel_tol=0, abs_tol=1e-9), name


@given(loads())
@settings(max_examples=400, deadline=None)
def test_rows_of_steps_do_exactly_what_single_steps_do(load: Load) -> None:
    _, rows = _play(load, fuse=True)
    _, single = _play(load, fuse=False)

    assert rows.cached == single.cached
    assert rows.events == single.events
    assert [name for name, _ in rows.preempted] == [name for name, _ in single.preempted]
    _assert_same_times(rows.started_s, single.started_s)
    _assert_same_times(rows.first_s, single.first_s)
    _assert_same_times(rows.finished_s, single.finished_s)
    assert rows.token_s.keys() == single.token_s.keys()
    for name, times in rows.token_s.items():
        assert len(times) == len(single.token_s[name])
        for left, right in zip(times, single.token_s[name], strict=True):
            assert isclose(left, right, rel_tol=0, abs_tol=1e-9)
    assert rows.rows <= single.rows


@given(loads())
@settings(max_examples=300, deadline=None)
def test_every_request_makes_its_tokens_or_is_aborted(load: Load) -> None:
    scheduler, ledger = _play(load, fuse=True)
    aborted = {name for _, name in load.aborts}

    assert scheduler.idle
    assert scheduler.pool.used == 0
    for each in load.requests:
        name = each.request_id
        if name in ledger.finished_s:
            times = ledger.token_s[name]
            assert len(times) == each.output_len
            assert times == sorted(times)
            assert ledger.first_s[name] == times[0]
            assert ledger.finished_s[name] == times[-1]
            assert ledger.started_s[name] >= each.arrival_s - SAME_S
        else:
            assert name in aborted


@given(loads())
@settings(max_examples=300, deadline=None)
def test_the_events_tell_what_the_cache_holds(load: Load) -> None:
    scheduler, ledger = _play(load, fuse=True)

    assert ledger.content() == scheduler.pool.content()


@given(loads())
@settings(max_examples=300, deadline=None)
def test_a_block_is_fresh_with_its_first_copy_and_gone_with_its_last(load: Load) -> None:
    scheduler, ledger = _play(load, fuse=True)

    copies: Counter[object] = Counter()
    for event in ledger.events:
        if isinstance(event, Stored):
            assert list(event.fresh) == [key for key in event.keys if not copies[key]]
            copies.update(event.keys)
        elif isinstance(event, Removed):
            copies.subtract(event.keys)
            assert set(event.gone) == {key for key in event.keys if not copies[key]}
            assert len(event.gone) == len(set(event.gone))
    assert +copies == scheduler.pool.content()


@given(loads())
@settings(max_examples=300, deadline=None)
def test_no_more_is_cached_than_others_ever_computed(load: Load) -> None:
    _, ledger = _play(load, fuse=True)
    size = load.profile.block_size
    computed: dict[object, int] = {}
    for each in load.requests:
        chain = each.keys_of(0, (each.prompt_len + each.output_len - 1) // size)
        for key in chain:
            computed[key] = computed.get(key, 0) + 1

    for each in load.requests:
        cached = ledger.cached.get(each.request_id, 0)
        limit = 0
        while limit < (each.prompt_len - 1) // size and computed[each.key_of(limit)] > 1:
            limit += 1
        assert cached % size == 0
        assert cached <= limit * size
        assert load.profile.prefix_caching or cached == 0


@given(loads())
@settings(max_examples=100, deadline=None)
def test_a_run_is_the_same_every_time(load: Load) -> None:
    assert _play(load, fuse=True)[1] == _play(load, fuse=True)[1]


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 8))
def test_keys_of_a_text_are_chained(text: list[int], blocks: int) -> None:
    longer, shorter = keys_of(text, blocks + 1), keys_of(text, blocks)
    assert longer[:blocks] == shorter
