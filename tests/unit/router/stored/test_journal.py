"""A journal tells the events that went into it, from any number on, and stays small."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.stored.events import events_of
from router.stored.journal import Journal
from router.stored.records import Run, StoredResponse

DELTAS = st.builds(
    lambda part, delta: {"type": "x.delta", "content_index": part, "delta": delta},
    st.integers(0, 1),
    st.text(max_size=3),
)
OTHERS = st.builds(lambda item: {"type": "x.done", "item": {"id": item}}, st.integers(0, 3))
EVENTS = st.lists(DELTAS | OTHERS, max_size=20)


def journal_of(events: list[dict[str, Any]]) -> Journal:
    journal = Journal()
    for number, event in enumerate(events):
        journal.add({**event, "sequence_number": number + 7})
    return journal


@given(EVENTS, st.integers(-1, 25))
def test_it_tells_what_went_in_from_any_number_on(events: list[dict[str, Any]], last: int) -> None:
    journal = journal_of(events)
    kept = Journal(msgspec.json.decode(msgspec.json.encode(journal.runs), type=list[Run]))
    for one in (journal, kept):
        assert one.count == len(events)
        assert list(one.after(last)) == list(enumerate(events))[last + 1 :]


def test_a_text_in_pieces_is_one_entry() -> None:
    events = [{"type": "x.delta", "item_id": "a", "delta": str(n)} for n in range(1000)]
    assert len(journal_of(events).runs) == 1


def test_a_stream_that_broke_off_is_told_with_an_end_behind_what_the_client_has() -> None:
    begun = {"type": "response.created", "response": {}}
    response = {"id": "resp_1", "status": "cancelled"}
    record = StoredResponse(response=response, items=[], told=[Run(begun)])
    end = {"type": "response.incomplete", "response": response}
    assert list(events_of(record, 0.0, -1)) == [(0, begun), (1, end)]
    assert list(events_of(record, 0.0, 5)) == [(6, end)]
