"""A continued response is the whole conversation, in order, for an engine that keeps nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.stored.records import (
    StoredResponse,
    conversation,
    finished,
    for_engine,
    items_of,
    queued,
)

TEXTS = st.lists(st.text(max_size=10), min_size=1, max_size=6)


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"text": text}]}


@given(TEXTS, TEXTS)
def test_every_turn_is_there_once_and_in_order(asked: list[str], answers: list[str]) -> None:
    previous = None
    expected: list[Any] = []
    for question, answer in zip(asked, answers, strict=False):
        items = conversation(previous, question)
        expected += items_of(question)
        assert items == expected
        expected.append(said(answer))
        previous = StoredResponse(response={"output": [said(answer)]}, items=items)


def test_an_engine_is_told_nothing_of_what_is_stored() -> None:
    asked = {"model": "m", "input": "Hi", "previous_response_id": "r", "background": True, "x": 1}
    sent = for_engine(asked, "resp_1", [{"role": "user"}])
    assert sent == {
        "model": "m",
        "input": [{"role": "user"}],
        "x": 1,
        "store": False,
        "request_id": "resp_1",
    }
    assert for_engine({"input": "Hi"}, "resp_1", None)["input"] == "Hi"


def test_the_kept_response_says_what_the_client_asked() -> None:
    asked = {"previous_response_id": "resp_0", "background": True}
    kept = finished({"id": "engine", "previous_response_id": None, "status": "x"}, asked, "resp_1")
    assert kept == {
        "id": "resp_1",
        "previous_response_id": "resp_0",
        "status": "x",
        "background": True,
        "store": True,
    }


def test_work_whose_router_is_silent_has_failed() -> None:
    record = StoredResponse(response=queued({}, "m", "r", 1), items=[], beats_until_s=100.0)
    assert record.shown(99.0)["status"] == "queued"
    assert record.shown(101.0)["status"] == "failed"
    done = record.with_response(status="completed")
    assert done.shown(101.0)["status"] == "completed"
