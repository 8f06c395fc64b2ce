from __future__ import annotations

import random
import re

import pytest

from workers.engine.simulated.asked.patterns import PatternFault, matching


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^a$",
        "a|bc",
        "[^a]{2}",
        r"\d{2}-\w+",
        "x*?y",
        "(?P<x>a)+",
        r"[a-f\d]{4}",
        r"\S\s\W\D",
        "a{3,}",
        ".{5}",
        "é+",
        r"[^\x00-\x7f]",
        r"(\+49|0)[1-9]\d{2,4}/\d{5}",
    ],
)
def test_the_text_matches_in_whole(pattern: str) -> None:
    for seed in range(20):
        assert re.fullmatch(pattern, matching(pattern, random.Random(seed)))


def test_the_same_seed_gives_the_same_text() -> None:
    texts = {matching("[a-z]{12}", random.Random(3)) for _ in range(3)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[",
        "*",
        "a{2,1}",
        "\\",
        "(?=a)a",
        r"(a)\1",
        r"a\b",
        "(?>a)",
        "a{99999999}",
        "(a{999}){999}",
    ],
)
def test_what_no_grammar_can_give_is_a_fault(pattern: str) -> None:
    with pytest.raises(PatternFault):
        matching(pattern, random.Random(0))
