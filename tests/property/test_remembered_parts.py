"""Ids put together from remembered parts are those of the whole text, and memory has its bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from rhizome.render.remembering import RememberedParts, TokenPart, borders_of, joined_ids
from tests.support.render_models import SPECIALS, byte_level, metaspace_bpe, unigram

pieces = st.sampled_from(
    [*SPECIALS, " ", "\n", "a", "word ", "▁", "🙂", "<", ">", "<|im_", "</think>"]
)
texts = st.lists(pieces, max_size=30).map("".join) | st.text(max_size=60)


def plainly(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("make", [byte_level, metaspace_bpe, unigram])
@settings(deadline=None, max_examples=150)
@given(asked=st.lists(texts, max_size=6))
def test_the_ids_are_those_of_the_whole_text(
    make: Callable[[], Tokenizer], asked: list[str]
) -> None:
    tokenizer = make()
    plain = plainly(tokenizer)
    parts = RememberedParts(borders_of(tokenizer), lambda text: TokenPart(plain(text)), 4000)
    for text in [*asked, *asked]:
        assert joined_ids(parts.encode(text)).tolist() == plain(text)
        parts.check_invariants()


def test_earlier_messages_are_not_tokenized_again() -> None:
    tokenizer = byte_level()
    assert "<|im_start|>" in borders_of(tokenizer)
    asked: list[str] = []

    def encode(text: str) -> TokenPart:
        asked.append(text)
        return TokenPart(plainly(tokenizer)(text))

    parts = RememberedParts(borders_of(tokenizer), encode)
    parts.encode("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    continued = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>new"
    assert parts.new_chars(continued) == 15
    assert parts.encode_if_quick(continued, 14) is None
    assert asked == ["<|im_start|>user\nHello<|im_end|>\n", "<|im_start|>assistant\n"]
    quick = parts.encode_if_quick(continued, 15)
    assert quick is not None
    assert joined_ids(quick).tolist() == plainly(tokenizer)(continued)
    assert asked[2:] == ["<|im_start|>new"]


def test_a_tokenizer_is_cut_nowhere_if_cuts_could_change_its_ids() -> None:
    overlapping = byte_level()
    overlapping.add_tokens([AddedToken("<<", normalized=False)])
    assert borders_of(overlapping) == frozenset()
    eating = byte_level()
    eating.add_special_tokens([AddedToken("<|eats|>", lstrip=True, normalized=False)])
    assert "<|eats|>" not in borders_of(eating)
