"""Reading a batch's input file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rhizome.stores.lines import Line
from router.batch.input import InputReader, LineFault, count_lines
from tests.support.batches import chat_line, jsonl

_LINE_BYTES_MAX = 4096


def _read(path: Path, content: bytes) -> list[Line | LineFault]:
    path.write_bytes(content)
    reader = InputReader(path, "batch-1", "/v1/chat/completions", _LINE_BYTES_MAX)
    lines = [line for chunk in reader.chunks() for line in chunk]
    assert len(lines) == count_lines(path, _LINE_BYTES_MAX, 10_000)
    assert [line.index for line in lines] == list(range(len(lines)))
    return lines


def test_a_line_keeps_its_body_as_it_was_written(tmp_path: Path) -> None:
    body = '{"model":  "m", "x": "\\u00e9é", "messages": []}'
    raw = '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":' + body + "}"
    (line,) = _read(tmp_path / "in", raw.encode())
    assert isinstance(line, Line)
    assert line.body == body.encode()
    assert (line.batch_id, line.custom_id, line.url) == ("batch-1", "a", "/v1/chat/completions")


def test_blank_lines_and_line_ends_do_not_count(tmp_path: Path) -> None:
    first, second = (jsonl([chat_line(one)]).strip() for one in ("a", "b"))
    content = b"\n  \r\n" + first + b"\r\n\n" + second + b"\n \t\n"
    lines = _read(tmp_path / "in", content)
    assert [line.custom_id for line in lines] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"custom_id": ""}, "invalid_custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id"),
        ({"custom_id": 7}, "invalid_json_line"),
        ({"custom_id": "taken"}, "duplicate_custom_id"),
        ({"method": "GET"}, "invalid_method"),
        ({"method": None}, "invalid_json_line"),
        ({"url": "/v1/completions"}, "mismatched_url"),
        ({"url": "http://127.0.0.1:1/v1/chat/completions"}, "mismatched_url"),
        ({"body": []}, "invalid_body"),
        ({"body": None}, "invalid_body"),
        ({"body": {"stream": True}}, "invalid_body"),
    ],
)
def test_a_bad_line_is_a_fault_of_that_line_only(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    lines = [chat_line("taken"), {**chat_line("bad"), **changes}, chat_line("good")]
    first, bad, good = _read(tmp_path / "in", jsonl(lines))
    assert isinstance(first, Line)
    assert isinstance(bad, LineFault)
    assert bad.code == code
    assert isinstance(good, Line)


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff\xfe", b"null", b"[]", b"[" * 3000, b'{"custom_id":"a"}', b"\x00"]
)
def test_a_line_that_is_no_request_is_a_fault(tmp_path: Path, raw: bytes) -> None:
    bad, good = _read(tmp_path / "in", raw + b"\n" + jsonl([chat_line("good")]))
    assert isinstance(bad, LineFault)
    assert bad.code == "invalid_json_line"
    assert isinstance(good, Line)


def test_a_fault_names_the_custom_id_where_it_can_be_found(tmp_path: Path) -> None:
    bad, nameless = _read(tmp_path / "in", b'{"custom_id":"a"}\n{"custom_id":')
    assert (bad.custom_id, nameless.custom_id) == ("a", None)


@pytest.mark.parametrize("excess", [1, 2, 5_000, 3_000_000])
def test_a_line_over_the_limit_is_a_fault_and_the_next_is_read(tmp_path: Path, excess: int) -> None:
    long = b"x" * (_LINE_BYTES_MAX + excess)
    bad, good = _read(tmp_path / "in", long + b"\n" + jsonl([chat_line("good")]))
    assert isinstance(bad, LineFault)
    assert bad.code == "line_too_long"
    assert isinstance(good, Line)


def test_a_line_of_just_the_limit_is_read(tmp_path: Path) -> None:
    bare = json.dumps(chat_line("a", content=""))
    full = json.dumps(chat_line("a", content="x" * (_LINE_BYTES_MAX - len(bare))))
    for end in (b"\n", b""):
        (line,) = _read(tmp_path / "in", full.encode() + end)
        assert isinstance(line, Line)


def test_chunks_are_bounded_and_miss_nothing(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(jsonl([chat_line(str(number)) for number in range(1000)]))
    reader = InputReader(path, "batch-1", "/v1/chat/completions", _LINE_BYTES_MAX)
    chunks = list(reader.chunks())
    assert max(len(chunk) for chunk in chunks) <= 256
    assert [line.custom_id for chunk in chunks for line in chunk] == [str(n) for n in range(1000)]


def test_counting_stops_above_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"x\n" * 1000)
    assert count_lines(path, _LINE_BYTES_MAX, 10) == 11


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    assert _read(tmp_path / "in", b"") == []
