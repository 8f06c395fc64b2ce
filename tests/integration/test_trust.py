"""Whatever makes a router's prediction differ from its engine is noticed, named and got over.

A real router in front of a simulated worker, over HTTP and ZMQ, with something between them that
makes the worker other than the router takes it for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from rhizome.clock import SystemClock
from router.trust.causes import Cause, State
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.engine_contract.rows import ADAPTER
from tests.support.mismatch import Rig, rigged
from tests.support.mismatches import (
    Ask,
    Models,
    adds,
    chat,
    chat_with_tools,
    completion,
    counts_prompts_by_answers,
    door,
    events,
    of_a_version_to_come,
    of_another_size,
    puts_instructions_in_front,
    renders,
    response,
    same_chat,
    sorts_schemas,
    two_answers,
    unsaid,
    with_pictures,
)
from workers.engine.simulated.server.words import Words

pytestmark = pytest.mark.integration


@dataclass
class Mismatch:
    """What is wrong, how it shows, and the cause that is to be named."""

    cause: Cause
    asks: Sequence[Ask]
    breaks: Callable[[Rig, Models], None]
    at_most: int = 6
    """Requests until the target is degraded."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    directory = write_tokenizer(tmp_path_factory.mktemp("models") / "model")
    return Models(directory, Words(directory, SystemClock()))


MISMATCHES = {
    "block size": Mismatch(Cause.BLOCK_SIZE, [chat], events(of_another_size)),
    "bos": Mismatch(Cause.SPECIAL_TOKENS, [completion], renders(Models.with_bos)),
    "template version": Mismatch(
        Cause.CHAT_TEMPLATE,
        [chat, completion],
        renders(lambda models: models.with_template("message.role + '\\n'", "message.role + ': '")),
        at_most=12,
    ),
    "tool schema order": Mismatch(
        Cause.TOOLS, [chat_with_tools, chat], door(change=sorts_schemas), at_most=12
    ),
    "lora": Mismatch(Cause.LORA, [chat], door(change=adds(model=ADAPTER))),
    "cache_salt": Mismatch(Cause.CACHE_SALT, [chat], door(change=adds(cache_salt="tenant"))),
    "image": Mismatch(Cause.MEDIA, [chat], events(with_pictures)),
    "responses body": Mismatch(
        Cause.CHAT_TEMPLATE, [response], door(change=puts_instructions_in_front)
    ),
    "truncated body": Mismatch(
        Cause.TRUNCATION, [chat], door(change=adds(truncate_prompt_tokens=20))
    ),
    "n>1": Mismatch(
        Cause.SEVERAL_ANSWERS,
        [two_answers, chat],
        door(change_answer=counts_prompts_by_answers),
        at_most=12,
    ),
    "engine version": Mismatch(Cause.EVENT_FORMAT, [chat], events(of_a_version_to_come), 40),
    "events missing": Mismatch(Cause.EVENTS_MISSING, [same_chat], events(unsaid), 12),
}


@pytest.mark.parametrize("name", MISMATCHES)
async def test_a_mismatch_is_noticed_named_and_got_over(
    name: str, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    mismatch = MISMATCHES[name]
    caplog.set_level("INFO", "router.verifier")
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        await rig.asked_until(lambda trust: trust.checks >= 4, chat, completion)
        assert rig.trust.state is State.EXACT
        mismatch.breaks(rig, models)
        took = await rig.asked_until(lambda trust: trust.state is not State.EXACT, *mismatch.asks)
        assert took <= mismatch.at_most
        await rig.asked_until(lambda trust: trust.cause is mismatch.cause, *mismatch.asks)
        rig.door.change = rig.door.renderer = rig.door.change_answer = rig.events.change = None
        back = await rig.asked_until(lambda trust: trust.state is State.EXACT, chat)
        print(f"\n{name}: noticed after {took} requests, exact again after {back}")
    lines = [record.getMessage() for record in caplog.records if "trust in" in record.getMessage()]
    assert len(lines) <= 6, lines
    assert any(mismatch.cause.value in line for line in lines)
