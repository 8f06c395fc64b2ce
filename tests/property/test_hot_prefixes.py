"""The radix tree of hot prefixes against a naive model that keeps every prefix apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from router.prefix.hashing import block_hashes, root_hash
from router.warmup.hot import HotPrefixes, Origin, Replay

BLOCK = 2
HALF_LIFE_S = 10.0
Blocks = tuple[int, ...]

prompts = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, "salt"]),
        st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple),
        st.floats(0.0, 30.0),
    ),
    max_size=40,
)


def tokens_of(blocks: Blocks) -> list[int]:
    return [token for block in blocks for token in (block, block + 10)]


def origin_of(model: str, salt: str | None) -> Origin:
    return Origin(model, salt, BLOCK)


def hashes_of(salt: str | None, blocks: Blocks) -> list[int]:
    return block_hashes(tokens_of(blocks), BLOCK, root_hash(salt=salt))


@dataclass
class Naive:
    """Each prefix with its weight and whether several conversations had it."""

    weights: dict[Blocks, float] = field(default_factory=dict)
    shared: set[Blocks] = field(default_factory=set)

    def note(self, blocks: Blocks, weight: float) -> None:
        known = max(
            (end for end in range(1, len(blocks) + 1) if blocks[:end] in self.weights), default=0
        )
        head = blocks[:known]
        goes_on = any(one[:known] == head and len(one) > known for one in self.weights)
        alone = head not in self.shared and not goes_on
        if known == len(blocks) or not alone:
            self.shared |= {head[:end] for end in range(1, known + 1)}
        for end in range(1, len(blocks) + 1):
            self.weights[blocks[:end]] = self.weights.get(blocks[:end], 0.0) + weight


def filled(
    noted: Sequence[tuple[str, str | None, Blocks, float]], hot: HotPrefixes
) -> tuple[dict[tuple[str, str | None], Naive], float]:
    """The naive model beside the real one, after the same prompts in order of time."""
    naive: dict[tuple[str, str | None], Naive] = {}
    now_s = 0.0
    for model, salt, blocks, after_s in noted:
        now_s += after_s
        hot.note(origin_of(model, salt), hashes_of(salt, blocks), tokens_of(blocks), now_s)
        hot.check_invariants()
        naive.setdefault((model, salt), Naive()).note(blocks, 2.0 ** (now_s / HALF_LIFE_S))
    return naive, now_s


def blocks_of(replay: Replay) -> Blocks:
    return tuple(replay.units[::BLOCK])


@given(prompts, st.integers(0, 20), st.floats(0.0, 2.0))
@example([("a", None, (0,), 0.0), *[("a", None, (0, 1), 0.0)] * 2], 20, 0.0)
def test_what_is_chosen_is_worth_most_and_holds_each_prefix_once(
    noted: list[tuple[str, str | None, Blocks, float]], blocks_max: int, hits_min: float
) -> None:
    hot = HotPrefixes(10**6, 10**4, HALF_LIFE_S)
    naive, now_s = filled(noted, hot)
    chosen = hot.choose("a", blocks_max * BLOCK, 100, hits_min, now_s)
    unit = 2.0 ** (now_s / HALF_LIFE_S)
    held: set[tuple[str | None, Blocks]] = set()
    for replay in chosen:
        model, salt, blocks = replay.origin.model, replay.origin.salt, blocks_of(replay)
        known = naive[model, salt]
        assert model == "a"
        assert list(replay.hashes) == hashes_of(salt, blocks)
        assert list(replay.units) == tokens_of(blocks)
        assert replay.tokens == len(replay.units)
        assert blocks in known.shared
        assert abs(replay.hits - known.weights[blocks] / unit) <= 1e-6 * replay.hits
        assert replay.hits >= hits_min * (1 - 1e-9)
        held |= {(salt, blocks[:end]) for end in range(1, len(blocks) + 1)}
    assert len(held) <= blocks_max
    ends = [(one.origin.salt, blocks_of(one)) for one in chosen]
    for salt, blocks in ends:
        assert not any(
            other == salt and len(more) > len(blocks) and more[: len(blocks)] == blocks
            for other, more in ends
        )
    candidates = [
        known.weights[blocks] / unit
        for (model, _), known in naive.items()
        if model == "a"
        for blocks in known.shared
    ]
    best = sorted((one for one in candidates if one >= hits_min), reverse=True)[:blocks_max]
    worth = sum(naive["a", salt].weights[blocks] / unit for salt, blocks in held)
    assert abs(worth - sum(best)) <= 1e-6 * max(1.0, worth)


@given(prompts, st.integers(2_000, 12_000), st.integers(2, 12))
def test_within_tight_bounds_it_forgets_and_invents_nothing(
    noted: list[tuple[str, str | None, Blocks, float]], bytes_max: int, runs_max: int
) -> None:
    hot = HotPrefixes(bytes_max, runs_max, HALF_LIFE_S)
    naive, now_s = filled(noted, hot)
    unit = 2.0 ** (now_s / HALF_LIFE_S)
    for model in ("a", "b"):
        for replay in hot.choose(model, 1000, 5, 0.0, now_s):
            known = naive[model, replay.origin.salt]
            assert replay.hits <= known.weights[blocks_of(replay)] / unit * (1 + 1e-6)
            assert list(replay.units) == tokens_of(blocks_of(replay))


@given(prompts)
def test_prompts_without_units_and_prompts_as_text_are_kept_alike(
    noted: list[tuple[str, str | None, Blocks, float]],
) -> None:
    bare, text = (HotPrefixes(10**6, 10**4, HALF_LIFE_S) for _ in range(2))
    now_s = 0.0
    for model, salt, blocks, after_s in noted:
        now_s += after_s
        hashes = hashes_of(salt, blocks)
        bare.note(Origin(model, salt, BLOCK), hashes, (), now_s)
        words = b"".join(b"word%d" % block for block in blocks)
        text.note(Origin(model, salt, BLOCK, 5), hashes, words, now_s)
        bare.check_invariants()
        text.check_invariants()
    ours, theirs = (one.choose("a", 16, 3, 0.0, now_s) for one in (bare, text))
    assert [list(one.hashes) for one in ours] == [list(one.hashes) for one in theirs]
    for one in theirs:
        assert isinstance(one.units, bytes)
        assert len(one.units) == 5 * len(one.hashes)
