"""The credit rule: whole blocks, never the last token's, and slower tiers for less."""

from __future__ import annotations

import numpy as np
import pytest

from router.prefix.credit import Matched, TierWorth, usable_blocks


@pytest.mark.parametrize(
    ("blocks_matched", "prompt_tokens", "credited"),
    [
        (0, 100, 0),
        (3, 100, 48),
        (6, 100, 96),
        (7, 100, 96),
        (6, 97, 96),
        (6, 96, 80),
        (1, 16, 0),
        (1, 17, 16),
        (9, 1, 0),
        (9, 0, 0),
    ],
)
def test_the_block_of_the_last_token_is_never_credited(
    blocks_matched: int, prompt_tokens: int, credited: int
) -> None:
    assert min(blocks_matched, usable_blocks(16, prompt_tokens)) * 16 == credited
    assert credited < max(1, prompt_tokens)


def test_blocks_in_slower_tiers_are_worth_a_part_of_those_on_the_device() -> None:
    matched = Matched(np.array([10, 0, 4]), np.array([0, 10, 3]), np.array([0, 10, 0]))
    assert matched.reused.tolist() == [10, 20, 7]
    assert matched.worth(TierWorth(host=0.7, storage=0.3)).tolist() == [10, 10, 6]
    assert matched.worth(TierWorth(host=0.0, storage=0.0)).tolist() == [10, 0, 4]
    assert matched.worth(TierWorth(host=1.0, storage=1.0)).tolist() == [10, 20, 7]


def test_a_tier_is_not_worth_more_than_a_faster_one() -> None:
    with pytest.raises(ValueError, match="tier"):
        TierWorth(host=0.3, storage=0.7)
