"""What every `LineQueue` promises."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rhizome.stores.lines import Delivery, Line, LineResult, ResultCounts
from rhizome.stores.open import Stores
from tests.support.waiting import eventually

_LONG_S = 60.0
_SHORT_S = 0.05


def _lines(count: int, batch_id: str = "b1", first: int = 0) -> list[Line]:
    return [
        Line(
            batch_id=batch_id,
            index=index,
            custom_id=f"c{index}",
            url="/v1/completions",
            body=b'{"prompt":"\xc3\xa9"}',
        )
        for index in range(first, first + count)
    ]


def _indices(deliveries: Sequence[Delivery]) -> list[int]:
    return [delivery.line.index for delivery in deliveries]


async def _lease_one(stores: Stores, consumer: str = "r1") -> Delivery:
    (delivery,) = await stores.lines.lease(consumer, 1, _LONG_S)
    return delivery


async def test_lines_come_back_in_order_and_as_they_were(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(5))
    deliveries = await stores.lines.lease("r1", 3, _LONG_S)
    assert [delivery.line for delivery in deliveries] == _lines(3)
    assert [delivery.deliveries for delivery in deliveries] == [1, 1, 1]
    assert _indices(await stores.lines.lease("r2", 10, _LONG_S)) == [3, 4]
    assert await stores.lines.lease("r3", 10, _LONG_S) == []
    assert await stores.lines.depth() == 5


async def test_an_empty_queue_leases_nothing(stores: Stores) -> None:
    assert await stores.lines.lease("r1", 3, _LONG_S) == []
    assert await stores.lines.renew("r1", []) == []
    assert await stores.lines.depth() == 0


async def test_many_consumers_never_share_a_line(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(100))
    asked = (stores.lines.lease(f"r{number}", 7, _LONG_S) for number in range(20))
    indices = [index for leased in await asyncio.gather(*asked) for index in _indices(leased)]
    assert sorted(indices) == list(range(100))


async def test_a_line_is_enqueued_once_however_often_it_is_offered(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(3))
    await stores.lines.enqueue("b1", _lines(5))
    await stores.lines.enqueue("b2", _lines(2, "b2"))
    assert await stores.lines.depth() == 7
    assert await stores.lines.enqueued("b1") == 5
    assert await stores.lines.enqueued("nobody") == 0


async def test_lines_may_skip_indices(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(1, first=3))
    await stores.lines.enqueue("b1", _lines(1, first=9))
    assert _indices(await stores.lines.lease("r1", 9, _LONG_S)) == [3, 9]
    assert await stores.lines.enqueued("b1") == 10


async def test_a_completed_line_leaves_the_queue_and_its_result_stays(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(2))
    delivery = await _lease_one(stores)
    assert await stores.lines.complete("r1", delivery, LineResult(b"\x00done"))
    assert await stores.lines.depth() == 1
    assert await stores.lines.results("b1", 0, 2) == [(0, LineResult(b"\x00done"))]
    assert await stores.lines.counts("b1") == ResultCounts(stored=1, failed=0)


async def test_a_line_has_one_result_however_often_it_ends(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(1))
    delivery = await _lease_one(stores)
    results = (
        stores.lines.complete(f"r{number}", delivery, LineResult(b"%d" % number, failed=True))
        for number in range(10)
    )
    assert sum(await asyncio.gather(*results)) == 1
    assert not await stores.lines.bury("r1", delivery, "late", LineResult(b"", failed=True))
    assert await stores.lines.counts("b1") == ResultCounts(stored=1, failed=1)
    assert await stores.lines.dead_letters(10) == []


async def test_a_line_goes_to_another_when_its_lease_ends(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(2))
    first = await _lease_one(stores, "r1")
    taken: list[Delivery] = []

    async def handed_out_again() -> bool:
        taken.extend(await stores.lines.lease("r2", 1, _SHORT_S))
        return bool(taken) and taken[-1].line.index == 0

    await eventually(handed_out_again)
    assert taken[-1].deliveries > 1
    assert await stores.lines.renew("r1", [first.receipt]) == []
    assert await stores.lines.renew("r2", [first.receipt]) == [first.receipt]


async def test_deliveries_count_every_handing_out(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(1))
    counted: list[int] = []

    async def delivered_four_times() -> bool:
        counted.extend(one.deliveries for one in await stores.lines.lease("r1", 1, _SHORT_S))
        return len(counted) == 4

    await eventually(delivered_four_times)
    assert counted == [1, 2, 3, 4]


async def test_a_renewed_line_stays_with_its_consumer_and_is_not_counted(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(1))
    delivery = await _lease_one(stores)
    for _ in range(10):
        assert await stores.lines.renew("r1", [delivery.receipt]) == [delivery.receipt]
        assert await stores.lines.lease("r2", 1, 1.0) == []
    await stores.lines.release("r1", [delivery.receipt])
    (again,) = await stores.lines.lease("r2", 1, 1.0)
    assert again.deliveries == 1


async def test_renewing_says_what_is_not_held(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(2))
    done, held = await stores.lines.lease("r1", 2, _LONG_S)
    await stores.lines.complete("r1", done, LineResult(b""))
    assert await stores.lines.renew("r1", [done.receipt, held.receipt]) == [held.receipt]
    assert await stores.lines.renew("r2", [held.receipt]) == []


async def test_released_lines_are_free_at_once_and_as_if_not_delivered(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(2))
    first, second = await stores.lines.lease("r1", 2, _LONG_S)
    await stores.lines.release("r2", [first.receipt])
    assert await stores.lines.lease("r2", 2, _LONG_S) == []
    await stores.lines.release("r1", [first.receipt, second.receipt])
    again = await stores.lines.lease("r2", 2, _LONG_S)
    assert [(one.line.index, one.deliveries) for one in again] == [(0, 1), (1, 1)]


async def test_ended_leases_come_before_fresh_lines(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(3))
    first = await _lease_one(stores)
    await stores.lines.release("r1", [first.receipt])
    assert _indices(await stores.lines.lease("r2", 2, _LONG_S)) == [0, 1]


async def test_a_buried_line_leaves_a_letter_and_a_result(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(2))
    for cause in ("first", "second"):
        delivery = await _lease_one(stores)
        assert await stores.lines.bury("r1", delivery, cause, LineResult(b"x", failed=True))
    assert await stores.lines.depth() == 0
    first, second = _lines(2)
    assert await stores.lines.dead_letters(10) == [(second, "second"), (first, "first")]
    assert await stores.lines.dead_letters(1) == [(second, "second")]
    assert await stores.lines.counts("b1") == ResultCounts(stored=2, failed=2)


async def test_a_dropped_line_leaves_nothing(stores: Stores) -> None:
    await stores.lines.enqueue("b1", _lines(1))
    await stores.lines.drop("r1", await _lease_one(stores))
    assert await stores.lines.depth() == 0
    assert await stores.lines.counts("b1") == ResultCounts(stored=0, failed=0)


async def test_lines_that_are_never_queued_can_be_settled_once(stores: Stores) -> None:
    await stores.lines.settle("b1", [(0, LineResult(b"bad", failed=True)), (2, LineResult(b"ok"))])
    await stores.lines.settle("b1", [(0, LineResult(b"other", failed=True))])
    assert await stores.lines.counts("b1") == ResultCounts(stored=2, failed=1)
    assert await stores.lines.results("b1", 0, 1) == [(0, LineResult(b"bad", failed=True))]


async def test_results_are_read_in_ranges(stores: Stores) -> None:
    await stores.lines.settle("b1", [(index, LineResult(b"%d" % index)) for index in (7, 1, 4)])
    assert [index for index, _ in await stores.lines.results("b1", 0, 10)] == [1, 4, 7]
    assert [index for index, _ in await stores.lines.results("b1", 1, 4)] == [1, 4]
    assert await stores.lines.results("b1", 0, 0) == []
    assert await stores.lines.results("nobody", 0, 10) == []


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_closed_batch_takes_neither_lines_nor_results(
    stores: Stores, forgotten: bool
) -> None:
    await stores.lines.enqueue("b1", _lines(2))
    done, late = await stores.lines.lease("r1", 2, _LONG_S)
    await stores.lines.complete("r1", done, LineResult(b"done"))
    await (stores.lines.discard("b1") if forgotten else stores.lines.close("b1"))

    assert not await stores.lines.complete("r1", late, LineResult(b"late"))
    await stores.lines.settle("b1", [(5, LineResult(b"late"))])
    await stores.lines.enqueue("b1", _lines(9))
    assert await stores.lines.depth() == 0
    kept = 0 if forgotten else 1
    assert await stores.lines.counts("b1") == ResultCounts(stored=kept, failed=0)
