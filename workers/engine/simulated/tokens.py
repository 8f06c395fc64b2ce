"""What the simulated engine generates: text that is a pure function of the text before it.

Each token is drawn from a hash of the seed and of all token ids so far, prompt included, as greedy
decoding would. So it depends on no scheduling, and a continuation, sent with the prompt and the
tokens already delivered, yields exactly the tokens that were still to come.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import xxhash


class TokenStream:
    """The tokens that follow a prompt, one after the other.

    `vocabulary` lists the token ids to draw from. Constant time a token, whatever the length.
    """

    def __init__(self, seed: int, prompt: Sequence[int], vocabulary: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._state = xxhash.xxh3_64(seed=seed & 0xFFFFFFFFFFFFFFFF)
        self._state.update(_as_bytes(prompt))

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> int:
        token = self._vocabulary[self._state.intdigest() % len(self._vocabulary)]
        self._state.update(token.to_bytes(4, "little"))
        return token


def _as_bytes(token_ids: Sequence[int]) -> bytes:
    ids = array("I", token_ids)
    if ids.itemsize != 4:
        raise RuntimeError("an unsigned int has not four bytes here")
    return ids.tobytes()
