"""Mooncake traces: read as they are, refused with the line that is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from loadtest.workloads.catalog import Choice, open_workload
from loadtest.workloads.mooncake import MooncakeTrace
from loadtest.workloads.shaping import Shape
from rhizome.errors import TraceError

GOOD = {"timestamp": 0, "input_length": 5, "output_length": 3, "hash_ids": [1, 2]}


def written(path: Path, *lines: object) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text + "\n")
    return path


def test_a_line_becomes_segments_of_its_blocks(tmp_path: Path) -> None:
    later = {**GOOD, "timestamp": 1500, "hash_ids": [1, 7]}
    trace = MooncakeTrace.open(written(tmp_path / "t.jsonl", GOOD, "", later), block_tokens=4)
    first, second = trace.requests(seed=0)
    assert [segment.tokens for segment in first.segments] == [4, 1]
    assert first.segments[0] == second.segments[0]
    assert first.segments[1].key != second.segments[1].key
    assert (first.at_s, second.at_s, trace.span_s) == (0.0, 1.5, 1.5)
    assert (first.prompt_len, first.output_len, second.hash_ids) == (5, 3, (1, 7))


def test_another_seed_has_the_same_blocks_in_other_words(tmp_path: Path) -> None:
    trace = MooncakeTrace.open(written(tmp_path / "t.jsonl", GOOD, GOOD), block_tokens=4)
    one, two = list(trace.requests(seed=1)), list(trace.requests(seed=2))
    assert one[0].segments == one[1].segments
    assert one[0].hash_ids == two[0].hash_ids
    assert one[0].segments[0].key != two[0].segments[0].key


def test_a_gzipped_trace_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert MooncakeTrace.open(path, block_tokens=4).count == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "not a request of Mooncake's format"),
        ({**GOOD, "hash_ids": "x"}, "not a request of Mooncake's format"),
        ({**GOOD, "timestamp": -1}, "timestamp is -1"),
        ({**GOOD, "input_length": 0}, "input_length is 0"),
        ({**GOOD, "output_length": -2}, "output_length is -2"),
        ({**GOOD, "hash_ids": [1]}, "the block size does not fit the trace"),
        ({**GOOD, "timestamp": 5}, "time goes back: 5 ms after 10 ms"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: object, said: str) -> None:
    path = written(tmp_path / "t.jsonl", {**GOOD, "timestamp": 10}, "", line)
    with pytest.raises(TraceError) as caught:
        MooncakeTrace.open(path, block_tokens=4)
    assert f"{path}:3: " in caught.value.message
    assert said in caught.value.message


def test_a_file_that_is_missing_empty_or_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"missing\.jsonl cannot be read"):
        MooncakeTrace.open(tmp_path / "missing.jsonl")
    with pytest.raises(TraceError, match="holds no request"):
        MooncakeTrace.open(written(tmp_path / "empty.jsonl", ""))
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 100)[:-20])
    with pytest.raises(TraceError, match=r"cut\.jsonl\.gz cannot be read"):
        MooncakeTrace.open(cut, block_tokens=4)


def test_the_trace_that_ships_is_whole() -> None:
    workload = open_workload(Choice(name="mooncake"), Shape())
    requests = list(workload.requests())
    assert len(requests) == workload.facts["trace"]["requests"] == 400
    assert all(len(one.hash_ids) == -(-one.prompt_len // 512) for one in requests)


def test_a_rate_stretches_the_trace_and_a_scale_thins_or_doubles_it() -> None:
    def requests(**shape: float) -> int:
        workload = open_workload(Choice(name="mooncake"), Shape(**shape))  # type: ignore[arg-type] # one field
        return len(list(workload.requests()))

    fast = list(open_workload(Choice(name="mooncake"), Shape(rate_per_s=10.0)).requests())
    assert fast[-1].at_s == pytest.approx(40.0)
    assert 0.2 < requests(rate_scale=0.3) / 400 < 0.4
    assert requests(rate_scale=2.0) == 800
    doubled = list(open_workload(Choice(name="mooncake"), Shape(rate_scale=2.0)).requests())
    assert doubled[0].segments[0].key != doubled[1].segments[0].key
    assert [one.number for one in doubled[:3]] == [0, 1, 2]
