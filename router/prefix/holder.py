"""One target in the index: its bit in the masks, and what it holds by the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

from router.prefix.arrivals import Arrivals
from router.prefix.layout import PLAIN_LAYOUT, Layer, Layout, Tier
from router.prefix.table import Hashes


@dataclass(slots=True)
class Holder:
    """Its blocks of each layer in the order in which they came."""

    target: str
    slot: int
    bit: int
    blocks_max: int | None
    layout: Layout = PLAIN_LAYOUT
    held: dict[Layer, Arrivals] = field(default_factory=dict)
    on_device: int = 0
    """Blocks in its device's memory, all groups together."""

    @property
    def excess(self) -> int:
        """Blocks on the device beyond its bound, if above 0."""
        return 0 if self.blocks_max is None else self.on_device - self.blocks_max

    def count(self, tier: Tier) -> int:
        """Blocks in a tier, all groups together."""
        return sum(line.count for layer, line in self.held.items() if layer.tier is tier)

    def came(self, layer: Layer, hashes: Hashes) -> Arrivals:
        """These were not held and are held now, in chain order; gives the layer's line."""
        line = self.held.get(layer)
        if line is None:
            line = self.held[layer] = Arrivals()
        line.came(hashes)
        if layer.tier is Tier.DEVICE:
            self.on_device += len(hashes)
        return line

    def went(self, layer: Layer, count: int) -> None:
        """So many are not held any more."""
        self.held[layer].went(count)
        if layer.tier is Tier.DEVICE:
            self.on_device -= count

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        assert self.bit == 1 << self.slot
        assert self.on_device == self.count(Tier.DEVICE)
        assert self.excess <= 0
