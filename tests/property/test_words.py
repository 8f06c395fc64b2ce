"""Ids put together from remembered words are those that the library gives for the text."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from rhizome.render import words as module
from rhizome.render.remembering import borders_of
from rhizome.render.words import in_ascii, words_of
from tests.support.render_models import SPECIALS, byte_level, metaspace_bpe, unigram

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ascii_characters = st.characters(max_codepoint=127)
pieces = st.sampled_from(
    [
        *("the ", "The", "'s", "'S", "'ll", "'LL", " ", "  ", "\n", "\r\n", "\t", "12345", "!"),
        *(
            "?!\n",
            "\x0b",
            "\x1c",
            "\x1f",
            "_",
            "camelCase",
            "ABC",
            "[INST]",
            "<",
            ">",
            "/",
            "<|im_",
            "\x00",
        ),
    ]
)
texts = st.lists(pieces | st.text(ascii_characters, max_size=6), max_size=30).map("".join)


def split_by(expression: str) -> Callable[[], Tokenizer]:
    def make() -> Tokenizer:
        tokenizer = byte_level()
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(expression), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        return tokenizer

    return make


MAKERS = {
    "byte_level": byte_level,
    "llama3": split_by(LLAMA3),
    "qwen": split_by(QWEN),
    "o200k": split_by(O200K),
}


@pytest.mark.parametrize("kind", MAKERS)
@settings(deadline=None, max_examples=100)
@given(asked=st.lists(texts, max_size=4))
def test_the_ids_are_those_of_the_library(kind: str, asked: list[str]) -> None:
    tokenizer = MAKERS[kind]()
    words = words_of(tokenizer, borders_of(tokenizer), lambda text: _ids(tokenizer, text))
    assert words is not None
    for text in [*asked, *asked]:
        for whole in (text, "<|im_start|>" + text, "<unk>" + text):
            part = words.part(whole)
            assert (part is None) == ("[INST]" in text or "[/INST]" in text)
            assert part is None or part.ids.tolist() == _ids(tokenizer, whole)


@pytest.mark.parametrize("expression", [GPT2, LLAMA3, QWEN, O200K])
def test_every_character_of_ascii_is_in_a_word(expression: str) -> None:
    pattern = in_ascii(expression)
    assert pattern is not None
    for code in range(128):
        for text in (chr(code), f"a{chr(code)}", f" {chr(code)} ", f"1{chr(code)}\n"):
            assert "".join(pattern.findall(text)) == text


def test_what_is_not_ascii_is_left_to_the_library() -> None:
    tokenizer = byte_level()
    words = words_of(tokenizer, borders_of(tokenizer), lambda text: _ids(tokenizer, text))
    assert words is not None
    assert words.part("naïve") is None


def test_tokenizers_that_are_not_known_to_cut_into_words_have_none() -> None:
    for tokenizer in (metaspace_bpe(), unigram(), _with_digits(), _with_prefix()):
        assert words_of(tokenizer, frozenset(SPECIALS), lambda _: [1]) is None
    assert words_of(byte_level(), frozenset(), lambda _: [1]) is None


def test_expressions_that_say_more_are_not_taken() -> None:
    for expression in (r"\p{Greek}+", r"\w+", r"[a-z&&[^b]]", r"\p{Lt}", r"[\p{L}", r"\h"):
        assert in_ascii(expression) is None
    found = in_ascii(r"\s+[^\p{L}]")
    assert found is not None
    assert found.flags & re.ASCII


def test_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WORDS_MAX", 100)
    tokenizer = byte_level()
    words = words_of(tokenizer, borders_of(tokenizer), lambda text: _ids(tokenizer, text))
    assert words is not None
    for begin in range(0, 300, 30):
        text = " ".join(map(str, range(begin, begin + 30)))
        part = words.part(text)
        assert part is not None
        assert part.ids.tolist() == _ids(tokenizer, text)
        assert 0 < words.count <= 100
    before, long = words.count, "x" * 1000
    part = words.part(long)
    assert part is not None
    assert part.ids.tolist() == _ids(tokenizer, long)
    assert words.count == before


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _with_digits() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def _with_prefix() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer
