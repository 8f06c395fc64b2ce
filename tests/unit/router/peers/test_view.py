"""What is known of other routers, message by message."""

from __future__ import annotations

from router.peers.own import OwnNews
from router.peers.view import PEERS_MAX, PeerView
from router.scheduling.load import LoadBook


def test_an_overtaken_message_changes_nothing() -> None:
    book = LoadBook()
    own, view = OwnNews("r1", book), PeerView("me", 3.0)
    receipt = book.reserve("a", 5, 0.0)
    early = own.news()
    book.release(receipt)
    late = own.news()
    assert early is not None
    assert late is not None
    view.take(late, 0.0)
    view.take(early, 0.0)
    assert view.in_flight("a") == view.queued_tokens("a") == 0


def test_a_lost_release_is_made_good_by_the_next_whole_message() -> None:
    book = LoadBook()
    own, view = OwnNews("r1", book), PeerView("me", 3.0)
    receipt = book.reserve("a", 5, 0.0)
    for told in own.whole():
        view.take(told, 0.0)
    book.release(receipt)
    own.news()  # lost
    assert view.in_flight("a") == 1
    view.changed.clear()
    for told in own.whole():
        view.take(told, 0.0)
    assert view.in_flight("a") == 0
    assert view.changed == {"a"}


def test_a_silent_router_is_gone_with_its_load_and_one_that_left_is_gone_at_once() -> None:
    view = PeerView("me", 3.0)
    for name in ("r1", "r2"):
        book = LoadBook()
        own = OwnNews(name, book)
        book.reserve("a", 5, 0.0)
        for told in own.whole():
            view.take(told, 10.0)
        if name == "r2":
            view.take(own.last(), 11.0)
    assert len(view) == view.in_flight("a") == 1
    assert view.expire(12.9) == 0
    assert view.expire(13.0) == 1
    assert len(view) == view.in_flight("a") == 0


def test_a_message_that_comes_after_the_sender_left_does_not_bring_it_back() -> None:
    book = LoadBook()
    own, view = OwnNews("r1", book), PeerView("me", 3.0)
    book.reserve("a", 5, 0.0)
    told, last = own.news(), own.last()
    assert told is not None
    view.take(last, 0.0)
    view.take(told, 0.0)
    assert len(view) == view.in_flight("a") == 0


def test_predictions_of_a_repeated_message_are_given_once() -> None:
    book = LoadBook()
    own, view = OwnNews("r1", book), PeerView("me", 3.0)
    book.reserve("a", 5, 0.0)
    own.predicted("a", [1, 2, 3], is_exact=True)
    told = own.news()
    assert told is not None
    (prediction,) = view.take(told, 0.0)
    assert prediction.hashes() == [1, 2, 3]
    assert not view.take(told, 0.0)


def test_the_own_echo_counts_for_nothing() -> None:
    book = LoadBook()
    own, view = OwnNews("me", book), PeerView("me", 3.0)
    book.reserve("a", 5, 0.0)
    for told in own.whole():
        view.take(told, 0.0)
    assert len(view) == view.in_flight("a") == 0


def test_only_so_many_routers_are_heard() -> None:
    view = PeerView("me", 3.0)
    for number in range(PEERS_MAX + 1):
        for told in OwnNews(f"r{number}", LoadBook()).whole():
            view.take(told, 0.0)
    assert len(view) == PEERS_MAX
