"""Receipts in random order of events: sums always true, and nothing left when all has ended."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from router.scheduling.load import LoadBook, Receipt, ReceiptState

workers = st.sampled_from(["a", "b", "c/0", "c/1"])
picks = st.integers(0, 10**6)


class LoadOfAttempts(RuleBasedStateMachine):
    """Attempts begin, answer, end, are retried elsewhere, end late, or lose their worker."""

    @initialize()
    def begin(self) -> None:
        self.book = LoadBook()
        self.now_s = 0.0
        self.all: list[Receipt] = []
        self.ended: set[int] = set()

    @rule(worker=workers, tokens=st.integers(0, 5000))
    def dispatch(self, worker: str, tokens: int) -> None:
        self.all.append(self.book.reserve(worker, tokens, self.now_s))

    @precondition(lambda self: self.all)
    @rule(pick=picks)
    def first_byte(self, pick: int) -> None:
        self.book.first_byte(self.all[pick % len(self.all)], self.now_s)

    @precondition(lambda self: self.all)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        at = pick % len(self.all)
        assert self.book.release(self.all[at]) == (at not in self.ended)
        self.ended.add(at)

    @precondition(lambda self: self.all)
    @rule(pick=picks, worker=workers)
    def retry(self, pick: int, worker: str) -> None:
        """A new attempt is booked before the old one is released, which happens twice."""
        old = pick % len(self.all)
        self.dispatch(worker, 10)
        self.book.release(self.all[old])
        assert not self.book.release(self.all[old])
        self.ended.add(old)

    @rule(worker=workers)
    def lose(self, worker: str) -> None:
        self.note_ended(self.book.drop_target(worker))
        assert self.book.in_flight(worker) == self.book.queued_tokens(worker) == 0

    @rule(delay_s=st.floats(0, 100))
    def time_passes(self, delay_s: float) -> None:
        self.now_s += delay_s

    @rule(age_s=st.sampled_from([10.0, 100.0]))
    def sweep(self, age_s: float) -> None:
        swept = self.book.sweep(self.now_s, age_s)
        assert all(self.now_s - receipt.reserved_at_s > age_s for receipt in swept)
        self.note_ended(swept)

    def note_ended(self, receipts: tuple[Receipt, ...]) -> None:
        at = {id(receipt): number for number, receipt in enumerate(self.all)}
        numbers = {at[id(receipt)] for receipt in receipts}
        assert not numbers & self.ended
        self.ended |= numbers

    @invariant()
    def sums_are_true(self) -> None:
        self.book.check_invariants()
        for worker in ("a", "b", "c/0", "c/1"):
            living = [
                receipt
                for number, receipt in enumerate(self.all)
                if receipt.target == worker and number not in self.ended
            ]
            assert self.book.in_flight(worker) == len(living)
            assert self.book.queued_tokens(worker) == sum(
                receipt.work_tokens for receipt in living if receipt.state is ReceiptState.PREFILL
            )

    def teardown(self) -> None:
        for receipt in getattr(self, "all", []):
            self.book.release(receipt)
        for worker in ("a", "b", "c/0", "c/1"):
            assert self.book.in_flight(worker) == self.book.queued_tokens(worker) == 0


LoadOfAttempts.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestLoadDrainsToZero = LoadOfAttempts.TestCase
