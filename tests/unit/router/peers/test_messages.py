"""Messages on the wire: what is not one is refused, what is too much is left out."""

from __future__ import annotations

import msgspec
import pytest

from router.peers.messages import (
    BLOCKS_MAX,
    MESSAGE_BYTES_MAX,
    PREDICTIONS_MAX,
    TARGETS_MAX,
    decode,
    encode,
)
from router.peers.own import OwnNews
from router.peers.view import PeerView
from router.scheduling.load import LoadBook


def _pair() -> tuple[LoadBook, OwnNews]:
    book = LoadBook()
    return book, OwnNews("r1", book)


def test_a_message_survives_the_wire() -> None:
    book, own = _pair()
    book.reserve("a", 7, 0.0)
    own.predicted("a", [1, 2**64 - 1], is_exact=True)
    told = own.news()
    assert told is not None
    found = decode(encode(told))
    assert found == told
    assert found.predictions[0].hashes() == [1, 2**64 - 1]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\xc1",
        b"\x00" * (MESSAGE_BYTES_MAX + 1),
        msgspec.msgpack.encode([1, "r", 0, False, False, False, [], []]),
        msgspec.msgpack.encode([1, "r", 1, False, False, False, [["a", -1, 0]], []]),
        msgspec.msgpack.encode([1, "r", 1, False, False, False, [["a", 1.5, 0]], []]),
        msgspec.msgpack.encode([1, "", 1, False, False, False, [], []]),
        msgspec.msgpack.encode([2, "r", 1, False, False, False, [], []]),
        msgspec.msgpack.encode(
            [1, "r", 1, False, False, False, [["a", 1, 1]] * (TARGETS_MAX + 1), []]
        ),
        msgspec.msgpack.encode({"router": "r"}),
    ],
)
def test_what_is_no_message_of_this_version_is_refused(bad: bytes) -> None:
    assert decode(bad) is None


def test_the_longest_message_can_be_read() -> None:
    book, own = _pair()
    for number in range(TARGETS_MAX):
        book.reserve(f"{number:064}", 10**6, 0.0)
    own.predicted("a", list(range(2**63, 2**63 + 2 * BLOCKS_MAX)), is_exact=True)
    told = own.news()
    assert told is not None
    assert len(told.loads) == TARGETS_MAX
    assert decode(encode(told)) == told
    assert own.blocks_left_out == BLOCKS_MAX


def test_predictions_are_bounded_in_number() -> None:
    _, own = _pair()
    for _ in range(PREDICTIONS_MAX + 5):
        own.predicted("a", [1], is_exact=False)
    (told,) = own.whole()
    assert len(told.predictions) == PREDICTIONS_MAX
    assert own.blocks_left_out == 5


def test_more_targets_than_a_message_holds_are_told_in_parts_that_delete_nothing() -> None:
    book, own = _pair()
    for number in range(TARGETS_MAX + 1):
        book.reserve(str(number), 1, 0.0)
    parts = list(own.whole())
    assert [part.is_whole for part in parts] == [False, False]
    view = PeerView("r2", 1.0)
    for part in parts:
        view.take(part, 0.0)
    assert len(view.loads()) == TARGETS_MAX + 1


def test_news_are_told_once_and_only_when_there_are_some() -> None:
    called = 0

    def note() -> None:
        nonlocal called
        called += 1

    book = LoadBook()
    own = OwnNews("r1", book, note)
    assert own.news() is None
    receipt = book.reserve("a", 5, 0.0)
    book.first_byte(receipt, 0.0)
    assert called == 1
    told = own.news()
    assert told is not None
    assert [(one.in_flight, one.queued_tokens) for one in told.loads] == [(1, 0)]
    assert own.news() is None
    book.release(receipt)
    assert called == 2
    told = own.news()
    assert told is not None
    assert [one.in_flight for one in told.loads] == [0]
