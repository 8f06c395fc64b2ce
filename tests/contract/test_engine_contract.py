"""One set of requests, one truth: what a real vLLM 0.32 answered, was recorded, and answers again.

The fast suite holds the simulated engine against `tests/data/vllm-0.32/answers.json`; the marked
tests start a real vLLM and hold it, and the simulation, against the same. With the variable
`RHIZOME_RECORD_CONTRACT` set to a file, the real engine's answers are written there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rhizome.clock import SystemClock
from rhizome.settings.load import environment_copy
from tests.support.engine_contract.compare import differences
from tests.support.engine_contract.engines import real_vllm, simulated, write_tokenizer
from tests.support.engine_contract.fuzz import drawn_rows
from tests.support.engine_contract.fuzz_apis import api_rows
from tests.support.engine_contract.play import QUIET_S, Answer, listening, play
from tests.support.engine_contract.rows import ROWS, Row
from tests.support.engine_contract.rows_asked import ASKED
from tests.support.engine_contract.rows_odd import ODD, ODD_MORE
from tests.support.engine_contract.rows_renders import RENDERS, SCALE_OUT_FLAGS
from tests.support.engine_contract.rows_tools import CALLS, PARSER_FLAGS
from workers.engine.simulated.server.words import Words

pytestmark = [pytest.mark.timeout(900), pytest.mark.asyncio(loop_scope="module")]

Answers = dict[str, Answer]
RECORDED = Path(__file__).parents[1] / "data" / "vllm-0.32" / "answers.json"
PLAIN: tuple[Row, ...] = (*ROWS, *ASKED, *drawn_rows(), *api_rows(), *ODD)
MORE: tuple[Row, ...] = (*RENDERS, *ODD_MORE, *CALLS)
"""For an engine with a parser of tool calls that renders for others, too."""
EVERY_ROW = pytest.mark.parametrize("row", [*PLAIN, *MORE], ids=lambda row: row.name)
NOT_SIMULATED = re.compile(
    r"_created$|request_params_|_kv_computed|request_num_preemptions|max_num_g"
)
"""Metrics that the simulation leaves out (docs/simulated-engine.md)."""


@pytest.fixture(scope="module")
def recorded() -> Answers:
    answers: Answers = json.loads(RECORDED.read_text(encoding="utf-8"))
    return answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_simulation(recorded: Answers, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    words = Words(write_tokenizer(tmp_path_factory.mktemp("model")), SystemClock())
    answers: Answers = {}
    for rows, more in ((PLAIN, False), (MORE, True)):
        async with simulated(words, tool_parser=more, scale_out=more) as worker:
            url, events = f"http://127.0.0.1:{worker.port}", worker.sources[0].endpoint
            answers |= await _asked(rows, url, events, recorded, quiet_s=0.005)
    return answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def of_vllm(recorded: Answers, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    answers: Answers = {}
    for rows, flags in ((PLAIN, ()), (MORE, (*PARSER_FLAGS, *SCALE_OUT_FLAGS))):
        async with real_vllm(tmp_path_factory.mktemp("vllm"), *flags) as engine:
            answers |= await _asked(rows, engine.url, engine.events, recorded, quiet_s=QUIET_S)
    answers["metrics"] |= _families(answers["metrics"].pop("text"))
    _record(answers, environment_copy().get("RHIZOME_RECORD_CONTRACT"))
    return answers


async def _asked(
    rows: Iterable[Row], url: str, endpoint: str, recorded: Answers, quiet_s: float
) -> Answers:
    # Where a model chooses how many tokens it says, the events are not known before.
    known = {
        row.name: recorded[row.name] for row in rows if row.name in recorded and not row.says_freely
    }
    async with listening(endpoint, quiet_s=quiet_s) as events:
        answers = await play(url, rows, events, known)
    assert events.sequences == list(range(len(events.sequences)))
    return answers


@EVERY_ROW
async def test_the_simulation_answers_as_vllm_did(
    row: Row, recorded: Answers, of_simulation: Answers
) -> None:
    assert differences(row, recorded[row.name], of_simulation[row.name]) == []


async def test_the_simulation_has_vllms_metrics(recorded: Answers, of_simulation: Answers) -> None:
    real, ours = recorded["metrics"], _families(of_simulation["metrics"]["text"])
    wanted = {name for name in real["types"] if not NOT_SIMULATED.search(name)}
    assert set(ours["types"]) == wanted
    assert ours["types"] == {name: real["types"][name] for name in wanted}
    info = "vllm:cache_config_info"
    for name, labels in ours["labels"].items():
        if name != info:
            assert labels == real["labels"][name], name
    assert set(ours["labels"][info]) <= set(real["labels"][info])


@pytest.mark.engine
@EVERY_ROW
async def test_vllm_answers_as_it_did(row: Row, recorded: Answers, of_vllm: Answers) -> None:
    assert differences(row, recorded[row.name], of_vllm[row.name]) == []


@pytest.mark.engine
@EVERY_ROW
async def test_the_simulation_answers_as_vllm_does(
    row: Row, of_vllm: Answers, of_simulation: Answers
) -> None:
    assert differences(row, of_vllm[row.name], of_simulation[row.name]) == []


def _families(page: str) -> dict[str, Any]:
    """Types by metric, and label names by sample."""
    types = dict(re.findall(r"^# TYPE (vllm:\S+) (\S+)$", page, re.MULTILINE))
    labels = {
        name: sorted(set(re.findall(r'(\w+)="', text)))
        for name, text in re.findall(r"^(vllm:[a-z_]+)\{([^}\n]*)\}", page, re.MULTILINE)
    }
    return {"types": types, "labels": labels}


def _record(answers: Answers, target: str | None) -> None:
    if target is None:
        return
    rows = (
        f"{json.dumps(name)}: {json.dumps(one, ensure_ascii=False, separators=(',', ':'))}"
        for name, one in answers.items()
    )
    Path(target).write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
