"""How trust in a worker begins, ends and comes back, in front of a simulated worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from rhizome.clock import SystemClock
from rhizome.wire.kv_events import AllBlocksCleared, KVEvent
from router.trust.causes import Cause, State
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.mismatch import BLOCK, MODEL, rigged
from tests.support.mismatches import (
    Models,
    adds,
    chat,
    completion,
    of_another_size,
    renamed,
    same_chat,
)
from tests.support.waiting import eventually
from workers.engine.simulated.server.words import Words

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    directory = write_tokenizer(tmp_path_factory.mktemp("models") / "model")
    return Models(directory, Words(directory, SystemClock()))


async def test_hashes_of_another_seed_cost_one_start_and_no_trust(models: Models) -> None:
    """Blocks are named by our own hashes of their tokens: an engine's seed does not matter."""
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        await rig.asked_until(lambda trust: trust.checks >= 3, chat)
        rig.events.change = renamed
        await rig.asked_until(lambda trust: trust.checks >= 9, chat)
        assert rig.trust.state is State.EXACT
        path, body = chat(rig.turn - 1)
        await rig.ask(body, path)
        predicted = rig.api.counted("router_predicted_cached_tokens_total", model=MODEL)
        assert predicted > 0


def renamed_without_a_word(told: Sequence[KVEvent]) -> list[KVEvent]:
    """An engine tells when it has cleared its cache; this one does not."""
    return renamed([one for one in told if not isinstance(one, AllBlocksCleared)])


async def test_a_seed_that_changes_under_known_blocks_costs_what_was_known(models: Models) -> None:
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        await rig.asked_until(lambda trust: trust.checks >= 5, chat)
        rig.events.change = renamed_without_a_word
        async with rig.http.post(f"{rig.door.url}/reset_prefix_cache") as answer:
            assert answer.status == 200
        for turn in range(3):
            path, body = chat(turn)
            await rig.ask(body, path)
        api = rig.api
        await eventually(lambda: api.counted("router_kv_events_total", kind="conflicts") == 1)
        await rig.asked_until(lambda trust: trust.state is State.EXACT, chat)


async def test_an_engine_that_reuses_by_larger_blocks_than_registered_is_exact(
    models: Models,
) -> None:
    async with rigged(models.words, models.directory) as rig:
        rig.join(block_size=BLOCK // 2)
        await rig.is_exact()
        await rig.asked_until(lambda trust: trust.checks >= 8, chat, completion)
        assert rig.trust.state is State.EXACT


async def test_a_cache_that_was_cleared_without_a_word_is_noticed_in_three_requests(
    models: Models,
) -> None:
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        prompts = [chat(turn) for turn in range(3)]
        for path, body in prompts:
            await rig.ask_checked(body, path)
        rig.events.change = lambda told: [
            one for one in told if not isinstance(one, AllBlocksCleared)
        ]
        async with rig.http.post(f"{rig.door.url}/reset_prefix_cache") as answer:
            assert answer.status == 200
        index = rig.api.router.dispatcher.index
        held = index.block_count("w0")
        for number, (path, body) in enumerate(prompts, start=1):
            await rig.ask_checked(body, path)
            assert (rig.trust.state is State.EXACT) == (number < 3)
        assert rig.trust.cause is Cause.DEAD_BLOCKS
        assert index.block_count("w0") < held, "what was proven wrong is forgotten"
        await rig.asked_until(lambda trust: trust.state is State.EXACT, chat)


@pytest.mark.parametrize("announced", [True, False], ids=["with event sockets", "without"])
async def test_prefix_caching_off_is_a_cause_of_its_own_and_told_once(
    models: Models, caplog: pytest.LogCaptureFixture, announced: bool
) -> None:
    caplog.set_level("INFO", "router.verifier")
    async with rigged(models.words, models.directory, {"prefix_caching": False}) as rig:
        rig.join(**({} if announced else {"events": ()}))

        async def asked() -> bool:
            await rig.ask(same_chat(0)[1])
            return rig.trust.cause is Cause.PREFIX_CACHING_OFF

        await eventually(asked)
        for _ in range(30):
            await rig.ask(same_chat(0)[1])
        assert rig.trust.credit_scale < 0.3
    lines = [record for record in caplog.records if "prefix_caching_off" in record.getMessage()]
    assert 1 <= len(lines) <= 2


async def test_a_new_worker_is_probed_before_traffic_and_a_wrong_one_says_why(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        assert rig.door.asked == 2
        assert rig.api.counted("router_trust_probes_total", end="checked") == 1
        assert rig.api.counted("router_trust_state", target="w0", state="exact") == 1
        rig.api.router.fleet.remove("w0", "test", 0.0)
        rig.join(block_size=2 * BLOCK)
        await eventually(lambda: rig.trust.cause is Cause.BLOCK_SIZE)
        assert rig.trust.state is State.DEGRADED
        assert rig.door.asked <= 4
        assert not rig.api.counted("router_requests_total", model=MODEL)
    said = [one.getMessage() for one in caplog.records if "block_size" in one.getMessage()]
    assert len(said) == 1
    assert "correct `block_size`" in said[0]


async def test_trust_comes_back_without_traffic(models: Models) -> None:
    async with rigged(models.words, models.directory, router__trust__probe_again_s=0.1) as rig:
        rig.events.change = of_another_size
        rig.join()
        with rig.clock.hurried():
            await eventually(lambda: rig.trust.state is State.FALLBACK)
            rig.events.change = None
            await rig.is_exact(30)


async def test_a_worker_in_fallback_gets_no_credit_from_events_and_keeps_sessions(
    models: Models,
) -> None:
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        rig.door.change = adds(cache_salt="tenant")
        await rig.asked_until(lambda trust: trust.state is State.FALLBACK, chat)
        path, body = chat(1000)
        async with rig.http.post(rig.api.url + path, json={"model": MODEL, **body}) as answer:
            assert answer.headers["x-rhizome-prefix-tokens"] == "0"
        async with rig.http.post(rig.api.url + path, json={"model": MODEL, **body}) as answer:
            assert int(answer.headers["x-rhizome-prefix-tokens"]) > 0, "by what was sent there"


async def test_a_healthy_worker_under_load_with_eviction_and_strangers_stays_exact(
    models: Models,
) -> None:
    """More prompts than its cache holds, queues, aborts, and a client that goes past the router."""
    async with rigged(models.words, models.directory, {"kv_blocks": 160}) as rig:
        rig.join()
        await rig.is_exact()
        seen: set[State] = set()

        async def client(number: int) -> None:
            for turn in range(60):
                path, body = chat((number * 7 + turn * (1 + number % 3)) % 40)
                if number % 8 == 7:
                    stranger = {"model": MODEL, "max_tokens": 2, **body}
                    async with rig.http.post(rig.door.url + path, json=stranger) as answer:
                        assert answer.status == 200
                else:
                    await rig.ask(body | {"max_tokens": 1 + turn % 20}, path)
                seen.add(rig.trust.state)

        await asyncio.gather(*(client(number) for number in range(16)))
        book = rig.api.router.dispatcher.trust
        await eventually(lambda: book.checks[True] > 30)
        print(f"\nchecks: {dict(book.checks)}, doubt {rig.trust.doubt:.3f}")
        assert seen == {State.EXACT}
        assert book.checks[False] < book.checks[True] / 20
