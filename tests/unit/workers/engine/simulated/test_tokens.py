from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from workers.engine.simulated.tokens import TokenStream

_VOCABULARY = range(1000, 1500)


def _take(seed: int, prompt: list[int], count: int) -> list[int]:
    return list(islice(TokenStream(seed, prompt, _VOCABULARY), count))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50), st.integers(0, 20), st.integers())
def test_a_continuation_yields_exactly_what_was_still_to_come(
    prompt: list[int], delivered: int, seed: int
) -> None:
    whole = _take(seed, prompt, 30)
    rest = _take(seed, prompt + whole[:delivered], 30 - delivered)
    assert whole[:delivered] + rest == whole


def test_tokens_depend_on_the_seed_and_on_every_token_before() -> None:
    base = _take(1, [1, 2, 3], 20)
    assert base == _take(1, [1, 2, 3], 20)
    assert base != _take(2, [1, 2, 3], 20)
    assert base != _take(1, [4, 2, 3], 20)


def test_tokens_are_from_the_vocabulary_and_do_not_repeat_themselves() -> None:
    tokens = _take(7, [5], 2000)
    assert set(tokens) <= set(_VOCABULARY)
    assert len(set(tokens)) > 400
