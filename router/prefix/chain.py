"""A prompt's block hashes, as numbers and as the array in which the index looks them up.

Numbers are what predictions are kept by; the array is made once, when it is first asked for,
however often the prompt is matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from router.prefix.table import Spread, spread


class Chain(list[int]):
    """Hashes of full blocks, first one first; not to be changed."""

    __slots__ = ("_spread",)

    def __init__(self, hashes: Iterable[int], known: Spread | None = None) -> None:
        """`known`: the same as an array, where there is one."""
        super().__init__(hashes)
        self._spread = known

    @property
    def spread(self) -> Spread:
        """The same as an array."""
        if self._spread is None:
            self._spread = spread(self)
        return self._spread


def leading_of(hashes: list[int], count: int) -> list[int]:
    """The first `count` of the hashes; of a chain they are one, too."""
    if count >= len(hashes):
        return hashes
    if isinstance(hashes, Chain):
        return Chain(hashes[:count], hashes.spread[:count])
    return hashes[:count]


def spread_of(hashes: Sequence[int]) -> Spread:
    """The array of a chain, or of any other hashes."""
    return hashes.spread if isinstance(hashes, Chain) else spread(hashes)
