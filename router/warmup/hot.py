"""The hottest prefixes of each model, with what is needed to replay them: a bounded radix tree.

A node is a run of blocks that were always seen together; its children go on differently. Hashes
of blocks are chained, so two runs that end in the same hash are the same. What several
conversations share (a system prompt, tools, a document) becomes a run of its own when the second
of them parts from the first, and is stored once however many build on it. The tail of a single
conversation is kept only to find that out: it grows with its turns, is never replayed, and is the
first to be dropped.

Hits fade: one at time t weighs `2 ** (t / half-life)`, so older ones count less without being
touched. A child's weight is never above its parent's, and per block a run's weight is what
replaying it is worth. So the best choice within a budget of tokens is the heaviest runs, and it
holds every chosen run's beginning too.

Pure: times are arguments. Prompts and salts are secrets: they are in no repr.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

NODE_BYTES = 600
"""Memory of a node without its blocks, estimated."""
TURN_BYTES = 100
"""Memory of where a turn ended, estimated."""
HASH_BYTES = 8
TOKEN_BYTES = 4
_KEPT_SHARE = 0.75
"""What is left where a bound was passed, so that not every prompt must look for the least hot."""
_PROMPT_SHARE = 8
"""One prompt takes at most an eighth of the memory."""
_FOLD_EXPONENT = 512.0

Units = Sequence[int] | bytes
"""Token ids, or bytes of text where ids are not known."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What prefixes must have in common to share blocks."""

    model: str
    """As requests name it."""
    salt: str | None = field(default=None, repr=False)
    block_tokens: int = 16
    """Tokens of a block; estimated for text."""
    block_bytes: int = 0
    """Bytes of a block where prompts are text, else 0."""

    @property
    def block_units(self) -> int:
        return self.block_bytes or self.block_tokens

    @property
    def bytes_per_block(self) -> int:
        """Memory of a block that is kept."""
        return HASH_BYTES + (self.block_bytes or self.block_tokens * TOKEN_BYTES)


@dataclass(frozen=True, slots=True)
class Replay:
    """One prefix to be replayed, in full blocks."""

    origin: Origin
    hashes: Sequence[int] = field(repr=False)
    units: Units = field(repr=False)
    """Empty where the prompts were noted without them."""
    hits: float
    """Requests that began with it, faded."""

    @property
    def tokens(self) -> int:
        return len(self.hashes) * self.origin.block_tokens


@dataclass(eq=False, slots=True, repr=False)
class _Node:
    """A run of blocks; an origin's root has none."""

    parent: _Node | None
    hashes: array[int]
    units: array[int] | bytearray
    weight: float
    shared: bool = False
    """Whether several conversations began with it."""
    children: dict[int, _Node] = field(default_factory=dict)
    """By their first hash."""
    turns: list[tuple[int, float]] = field(default_factory=list)
    """Of a single conversation: the block at which each earlier turn ended, and what the run
    weighed until then, which the blocks beyond have no part in."""


class HotPrefixes:
    """Notes prompts, and tells which of their prefixes are worth most."""

    def __init__(self, bytes_max: int, runs_max: int, half_life_s: float) -> None:
        self._bytes_max = bytes_max
        self._runs_max = runs_max
        self._half_life_s = half_life_s
        self._roots: dict[Origin, _Node] = {}
        self._epoch_s = 0.0
        self._runs = 0
        self._bytes = 0

    def __len__(self) -> int:
        """Runs that are kept, single conversations' included."""
        return self._runs

    @property
    def bytes_used(self) -> int:
        """Estimated memory."""
        return self._bytes

    def note(self, origin: Origin, hashes: Sequence[int], units: Units, now_s: float) -> None:
        """A request was answered whose prompt has these full blocks.

        `units` are those of the whole prompt, or empty if they are not to be replayed.
        """
        hashes = hashes[: self._bytes_max // _PROMPT_SHARE // origin.bytes_per_block]
        if not hashes:
            return
        weight = self._weight_at(now_s)
        node = self._roots.get(origin)
        if node is None:
            node = self._roots[origin] = self._made(origin, None, (), b"", 0.0)
        node.weight += weight
        at = 0
        while at < len(hashes) and (child := node.children.get(hashes[at])) is not None:
            same = _equal_blocks(child.hashes, hashes, at)
            node = self._split(origin, child, same) if same < len(child.hashes) else child
            node.weight += weight
            at += same
        rest = _units_from(units, at * origin.block_units)
        if at == len(hashes):
            self._mark_shared(origin, node)
        elif node.parent is not None and not node.shared and not node.children:
            node.turns.append((len(node.hashes), node.weight - weight))
            self._extend(origin, node, hashes[at:], rest)
        else:
            self._mark_shared(origin, node)
            node.children[hashes[at]] = self._made(origin, node, hashes[at:], rest, weight)
        self._enforce()

    def choose(
        self, model: str, tokens_max: int, prefixes_max: int, hits_min: float, now_s: float
    ) -> list[Replay]:
        """The prefixes that are worth most, hottest first.

        Together they have at most `tokens_max` different tokens. Each was shared by several
        conversations and has at least `hits_min` faded hits; none is the beginning of another.
        """
        unit = self._weight_at(now_s)
        taken = self._heaviest(model, tokens_max, hits_min * unit)
        covered: set[_Node] = set()
        replays: list[Replay] = []
        for node in taken:  # heaviest first, so a run comes after its beginning
            if node in covered or len(replays) == prefixes_max:
                continue
            end = node
            while below := [one for one in end.children.values() if one in taken]:
                end = max(below, key=lambda one: one.weight)
            path = list(_path(end))
            covered.update(path)
            origin, _ = taken[end]
            replays.append(_replay(origin, path, taken[end][1], end.weight / unit))
        return replays

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the parts disagree."""
        runs = used = 0
        for origin, root in self._roots.items():
            assert root.parent is None
            assert root.children
            for node in _below(root):
                runs += 1
                used += _bytes_of(origin, node)
                assert not (node.turns and (node.shared or node.children))
                assert isinstance(node.units, bytearray) is bool(origin.block_bytes)
                assert len(node.units) in (0, len(node.hashes) * origin.block_units)
                for first, child in node.children.items():
                    assert child.parent is node
                    assert child.hashes[0] == first
                    assert child.weight <= node.weight * (1 + 1e-9)
                    assert node is root or node.shared or not child.shared
        assert (runs, used) == (self._runs, self._bytes)
        assert self._bytes <= self._bytes_max
        assert self._runs <= self._runs_max

    def _heaviest(
        self, model: str, tokens_max: int, weight_min: float
    ) -> dict[_Node, tuple[Origin, int]]:
        """Shared runs, heaviest first, each with how many of its blocks are within the bound."""
        heap = [
            (-node.weight, id(node), node, origin)
            for origin, root in self._roots.items()
            if origin.model == model
            for node in root.children.values()
        ]
        heapq.heapify(heap)
        taken: dict[_Node, tuple[Origin, int]] = {}
        left = tokens_max
        while heap:
            _, _, node, origin = heapq.heappop(heap)
            blocks = min(len(node.hashes), left // origin.block_tokens)
            if not node.shared or node.weight < weight_min:
                continue
            if not blocks:
                break
            taken[node] = origin, blocks
            left -= blocks * origin.block_tokens
            if blocks == len(node.hashes):
                for child in node.children.values():
                    heapq.heappush(heap, (-child.weight, id(child), child, origin))
        return taken

    def _made(
        self,
        origin: Origin,
        parent: _Node | None,
        hashes: Iterable[int],
        units: Units,
        weight: float,
    ) -> _Node:
        kept = array("Q", hashes)
        whole = units[: len(kept) * origin.block_units]
        node = _Node(parent, kept, bytearray() if origin.block_bytes else array("I"), weight)
        node.units.extend(whole)
        self._runs += 1
        self._bytes += NODE_BYTES + len(kept) * origin.bytes_per_block
        return node

    def _extend(self, origin: Origin, node: _Node, hashes: Sequence[int], units: Units) -> None:
        """The next turn of the one conversation that the run is of."""
        node.hashes.extend(hashes)
        node.units.extend(units[: len(hashes) * origin.block_units])
        self._bytes += len(hashes) * origin.bytes_per_block + TURN_BYTES

    def _split(self, origin: Origin, node: _Node, blocks: int) -> _Node:
        """Makes the run's first blocks one of its own, and returns that."""
        assert node.parent is not None
        assert 0 < blocks < len(node.hashes)
        cut = blocks * origin.block_units
        self._bytes -= _bytes_of(origin, node)
        head = self._made(origin, node.parent, node.hashes[:blocks], node.units[:cut], node.weight)
        head.shared = node.shared
        head.turns = [(end, weight) for end, weight in node.turns if end < blocks]
        past = max((weight for end, weight in node.turns if end <= blocks), default=0.0)
        node.turns = [(end - blocks, weight - past) for end, weight in node.turns if end > blocks]
        node.weight -= past
        node.parent.children[node.hashes[0]] = head
        del node.hashes[:blocks]
        del node.units[:cut]
        node.parent = head
        head.children[node.hashes[0]] = node
        self._bytes += _bytes_of(origin, node) + len(head.turns) * TURN_BYTES
        return head

    def _mark_shared(self, origin: Origin, node: _Node) -> None:
        """Several conversations began with the run: its turns become runs with their own weights.

        All above are marked already, since only ends are a single conversation's.
        """
        if node.parent is None or node.shared:
            return
        while node.turns:
            self._split(origin, node, node.turns[0][0]).shared = True
        node.shared = True

    def _weight_at(self, now_s: float) -> float:
        """What a hit weighs now; scales all weights down before they overflow."""
        exponent = (now_s - self._epoch_s) / self._half_life_s
        if exponent > _FOLD_EXPONENT:
            for root in self._roots.values():
                for node in _below(root):
                    node.weight *= 2.0**-exponent
                    node.turns = [(end, one * 2.0**-exponent) for end, one in node.turns]
            self._epoch_s, exponent = now_s, 0.0
        return float(2.0**exponent)

    def _enforce(self) -> None:
        """Drops ends of runs, single conversations' first and the least hot ones among equals."""
        if self._bytes <= self._bytes_max and self._runs <= self._runs_max:
            return
        heap = [
            (node.shared, node.weight, id(node), node, origin)
            for origin, root in self._roots.items()
            for node in _below(root)
            if not node.children
        ]
        heapq.heapify(heap)
        while heap and (
            self._bytes > self._bytes_max * _KEPT_SHARE or self._runs > self._runs_max * _KEPT_SHARE
        ):
            *_, node, origin = heapq.heappop(heap)
            parent = node.parent
            assert parent is not None
            self._forget(origin, node)
            del parent.children[node.hashes[0]]
            if parent.children:
                continue
            if parent.parent is None:
                self._forget(origin, parent)
                del self._roots[origin]
            else:
                heapq.heappush(heap, (parent.shared, parent.weight, id(parent), parent, origin))

    def _forget(self, origin: Origin, node: _Node) -> None:
        self._runs -= 1
        self._bytes -= _bytes_of(origin, node)


def _equal_blocks(run: array[int], hashes: Sequence[int], at: int) -> int:
    """How many of the run's blocks are those from `at`: found by halving, since equal hashes
    mean equal prefixes. The first one is."""
    low, high = 1, min(len(run), len(hashes) - at)
    while low < high:
        middle = (low + high + 1) // 2
        if run[middle - 1] == hashes[at + middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def _bytes_of(origin: Origin, node: _Node) -> int:
    blocks, turns = len(node.hashes), len(node.turns)
    return NODE_BYTES + blocks * origin.bytes_per_block + turns * TURN_BYTES


def _units_from(units: Units, at: int) -> Units:
    return units[at:] if at else units


def _below(root: _Node) -> Iterator[_Node]:
    """The node and all below it."""
    found = [root]
    while found:
        node = found.pop()
        yield node
        found.extend(node.children.values())


def _path(node: _Node) -> Iterator[_Node]:
    """From the beginning to the node, without the root."""
    nodes: list[_Node] = []
    while node.parent is not None:
        nodes.append(node)
        node = node.parent
    return reversed(nodes)


def _replay(origin: Origin, path: Sequence[_Node], blocks_of_last: int, hits: float) -> Replay:
    hashes = array("Q")
    units: bytearray | array[int] = bytearray() if origin.block_bytes else array("I")
    for node in path:
        hashes.extend(node.hashes)
        units.extend(node.units)
    dropped = len(path[-1].hashes) - blocks_of_last
    if dropped:
        del hashes[-dropped:]
        del units[-dropped * origin.block_units :]
    return Replay(origin, hashes, bytes(units) if origin.block_bytes else units, hits)
