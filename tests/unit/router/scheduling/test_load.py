"""Receipts: what each step gives back, and that it does so once."""

from __future__ import annotations

from router.scheduling.load import LoadBook, ReceiptState


def head(book: LoadBook) -> tuple[int, float]:
    load = book.load("w")
    return load.head_tokens, load.head_since_s


def test_a_receipt_counts_tokens_until_the_first_byte_and_itself_until_release() -> None:
    book = LoadBook()
    receipt = book.reserve("w", 100, 0.0)
    assert (book.in_flight("w"), book.queued_tokens("w")) == (1, 100)
    book.first_byte(receipt, 0.0)
    assert (book.in_flight("w"), book.queued_tokens("w")) == (1, 0)
    assert book.release(receipt)
    assert (book.in_flight("w"), book.queued_tokens("w")) == (0, 0)


def test_a_release_without_a_first_byte_gives_the_tokens_back_too() -> None:
    book = LoadBook()
    kept, lost = book.reserve("w", 100, 0.0), book.reserve("w", 50, 0.0)
    book.release(lost)
    assert (book.in_flight("w"), book.queued_tokens("w")) == (1, 100)
    assert kept.state is ReceiptState.PREFILL


def test_every_step_happens_once() -> None:
    book = LoadBook()
    other, receipt = book.reserve("w", 7, 0.0), book.reserve("w", 100, 0.0)
    for _ in range(2):
        book.first_byte(receipt, 0.0)
    assert book.release(receipt)
    assert not book.release(receipt)
    book.first_byte(receipt, 0.0)
    assert (book.in_flight("w"), book.queued_tokens("w")) == (1, 7)
    assert receipt.state is ReceiptState.RELEASED
    book.release(other)


def test_a_late_release_after_the_loss_of_a_worker_does_not_touch_its_successor() -> None:
    book = LoadBook()
    old = book.reserve("w", 100, 0.0)
    assert book.drop_target("w") == (old,)
    book.reserve("w", 30, 1.0)
    book.first_byte(old, 0.0)
    assert not book.release(old)
    assert (book.in_flight("w"), book.queued_tokens("w")) == (1, 30)


def test_only_receipts_older_than_the_limit_are_swept() -> None:
    book = LoadBook()
    old, young = book.reserve("w", 1, 0.0), book.reserve("w", 2, 50.0)
    assert book.sweep(100.0, 100.0) == ()
    assert book.sweep(100.1, 100.0) == (old,)
    assert book.in_flight("w") == 1
    book.release(young)
    assert book.drop_target("w") == ()


def test_the_head_is_the_oldest_prompt_that_is_not_done() -> None:
    book = LoadBook()
    assert head(book) == (0, 0.0)
    first, second = book.reserve("w", 100, 1.0), book.reserve("w", 50, 2.0)
    assert head(book) == (100, 1.0)
    book.first_byte(first, 4.0)
    assert head(book) == (50, 4.0)
    third = book.reserve("w", 7, 5.0)
    assert book.release(second)
    assert head(book) == (7, 5.0)
    book.first_byte(third, 6.0)
    assert head(book) == (0, 0.0)
    book.check_invariants()
