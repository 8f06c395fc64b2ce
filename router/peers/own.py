"""What this router has to tell the others: targets whose load changed, and prompts just sent.

Only names of targets are kept between two messages; the numbers are read from the load book when
a message is made, so a burst of changes costs one message, and nothing grows while nobody listens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from router.peers.messages import (
    BLOCKS_MAX,
    PREDICTIONS_MAX,
    TARGETS_MAX,
    VERSION,
    Prediction,
    TargetLoad,
    Told,
    packed,
)
from router.scheduling.load import LoadBook


def _nothing() -> None:
    pass


class OwnNews:
    """Collects news of a load book until the next message; pure, its caller sends.

    `on_news` is called when there is something to tell and was nothing before.
    """

    def __init__(
        self, router_id: str, book: LoadBook, on_news: Callable[[], None] = _nothing
    ) -> None:
        self.router_id = router_id
        self._book = book
        self.on_news = on_news
        self._sequence = 0
        self._changed: set[str] = set()
        self._predictions: list[Prediction] = []
        self._blocks = 0
        self.blocks_left_out = 0
        """Predicted blocks that no message had room for, since the start."""
        book.on_change = self.changed

    def changed(self, target: str) -> None:
        """The load at a target changed."""
        is_first = not self._changed
        self._changed.add(target)
        if is_first:
            self.on_news()

    def predicted(self, target: str, hashes: Sequence[int], *, is_exact: bool) -> None:
        """A prompt was sent to a target, which did not hold these blocks of it."""
        room = BLOCKS_MAX - self._blocks if len(self._predictions) < PREDICTIONS_MAX else 0
        told = hashes[:room]
        self.blocks_left_out += len(hashes) - len(told)
        if told:
            self._blocks += len(told)
            self._predictions.append(Prediction(target, packed(told), is_exact))

    def news(self) -> Told | None:
        """What changed since the last message; None if nothing did."""
        if not self._changed:
            return None
        targets = list(islice(self._changed, TARGETS_MAX))
        self._changed.difference_update(targets)
        return self._tell([self._load(target) for target in targets])

    def forget(self) -> None:
        """Nobody is there to be told; whoever comes gets a whole message."""
        self._changed.clear()
        self._predictions, self._blocks = [], 0

    def whole(self, *, asks: bool = False) -> Iterator[Told]:
        """Everything: one message, or several where one has no room for all targets.

        Of several none is whole, so that what they do not name stays as it was told.
        """
        loads = [self._load(target) for target in self._book.targets()]
        self._changed.clear()
        is_whole = len(loads) <= TARGETS_MAX
        for begin in range(0, max(1, len(loads)), TARGETS_MAX):
            part = loads[begin : begin + TARGETS_MAX]
            yield self._tell(part, is_whole=is_whole, asks=asks)

    def last(self) -> Told:
        """This router leaves."""
        return self._tell([], is_whole=True, is_last=True)

    def _load(self, target: str) -> TargetLoad:
        book = self._book
        return TargetLoad(target, book.in_flight(target), book.queued_tokens(target))

    def _tell(
        self,
        loads: list[TargetLoad],
        *,
        is_whole: bool = False,
        is_last: bool = False,
        asks: bool = False,
    ) -> Told:
        self._sequence += 1
        predictions, self._predictions, self._blocks = self._predictions, [], 0
        return Told(
            version=VERSION,
            router=self.router_id,
            sequence=self._sequence,
            is_whole=is_whole,
            is_last=is_last,
            asks=asks,
            loads=loads,
            predictions=predictions,
        )
