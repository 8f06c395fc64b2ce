"""The credit rule: whole blocks, and never the last token's."""

from __future__ import annotations

import pytest

from router.prefix.credit import credited_tokens


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
    assert credited_tokens(blocks_matched, 16, prompt_tokens) == credited
    assert credited < max(1, prompt_tokens)
