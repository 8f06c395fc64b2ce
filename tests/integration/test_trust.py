"""Whatever makes a router's prediction differ from its engine is noticed, named and got over.

A real router in front of a simulated worker, over HTTP and ZMQ, with something between them that
makes the worker other than the router takes it for.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer, processors

from rhizome.clock import SystemClock
from rhizome.render.renderer import Renderer, load_renderer
from rhizome.wire.kv_events import (
    AllBlocksCleared,
    BlockRemoved,
    BlockStored,
    KVEvent,
    KVEventBatch,
    encode_batch,
)
from router.trust.causes import Cause, State
from tests.support.engine_contract.engines import write_tokenizer
from tests.support.engine_contract.rows import ADAPTER
from tests.support.mismatch import BLOCK, MODEL, Body, Rig, rigged
from tests.support.waiting import eventually
from workers.engine.simulated.server.words import Words

pytestmark = pytest.mark.integration
WORDS = "the quick answer to a long question about rivers and towers "
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city, for some days to come.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
Ask = Callable[[int], tuple[str, Body]]


def chat(turn: int) -> tuple[str, Body]:
    text = f"{turn}: {WORDS * (3 + turn % 3)}"
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}


def chat_with_tools(turn: int) -> tuple[str, Body]:
    path, body = chat(turn)
    return path, body | {"tools": [TOOL], "tool_choice": "none"}


def two_answers(turn: int) -> tuple[str, Body]:
    path, body = chat(turn)
    return path, body | {"n": 2}


def completion(turn: int) -> tuple[str, Body]:
    return "/v1/completions", {"prompt": f"{turn}: {WORDS * (3 + turn % 3)}"}


def response(turn: int) -> tuple[str, Body]:
    return "/v1/responses", {"input": f"{turn}: {WORDS * (3 + turn % 3)}", "max_output_tokens": 2}


def same_chat(turn: int) -> tuple[str, Body]:
    return chat(0)


@dataclass
class Mismatch:
    """What is wrong, how it shows, and the cause that is to be named."""

    cause: Cause
    asks: Sequence[Ask]
    breaks: Callable[[Rig, Models], None]
    at_most: int = 6
    """Requests until the target is degraded."""


@dataclass
class Models:
    """The engine's model directory and others that differ from it in one thing."""

    directory: Path
    words: Words
    _made: dict[str, Renderer] = field(default_factory=dict)

    def with_bos(self) -> Renderer:
        return self._variant("bos", self._add_bos)

    def with_template(self, old: str, new: str) -> Renderer:
        def change(directory: Path) -> None:
            file = directory / "chat_template.jinja"
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))

        return self._variant(new, change)

    def _variant(self, name: str, change: Callable[[Path], None]) -> Renderer:
        if name not in self._made:
            other = self.directory.with_name(f"variant-{len(self._made)}")
            shutil.copytree(self.directory, other)
            change(other)
            self._made[name] = load_renderer(other)
        return self._made[name]

    @staticmethod
    def _add_bos(directory: Path) -> None:
        tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
        tokenizer.save(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    directory = write_tokenizer(tmp_path_factory.mktemp("models") / "model")
    return Models(directory, Words(directory, SystemClock()))


def door(**fields: object) -> Callable[[Rig, Models], None]:
    def breaks(rig: Rig, models: Models) -> None:
        for name, value in fields.items():
            setattr(rig.door, name, value)

    return breaks


def renders(make: Callable[[Models], Renderer]) -> Callable[[Rig, Models], None]:
    def breaks(rig: Rig, models: Models) -> None:
        rig.door.renderer = make(models)

    return breaks


def events(change: Callable[[Sequence[KVEvent]], Any]) -> Callable[[Rig, Models], None]:
    def breaks(rig: Rig, models: Models) -> None:
        rig.events.change = change

    return breaks


def adds(**fields: object) -> Callable[[Body], Body]:
    return lambda body: body | fields


def sorts_schemas(body: Body) -> Body:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in sorted(value)}
        return value

    if not body.get("tools"):
        return body
    return body | {"tools": [reordered(tool) for tool in body["tools"]]}


def counts_prompts_by_answers(asked: Body, said: Body) -> None:
    said["usage"]["prompt_tokens"] *= asked.get("n", 1)


def puts_instructions_in_front(asked: Body) -> Body:
    if "input" not in asked:
        return asked
    messages = [
        {"role": "system", "content": "Go on with what was said before."},
        {"role": "user", "content": asked["input"]},
    ]
    return {"model": MODEL, "max_tokens": 2, "messages": messages}


def of_another_size(told: Sequence[KVEvent]) -> list[KVEvent]:
    """The same tokens as an engine tells of them whose blocks are half as long again."""
    out: list[KVEvent] = []
    for event in told:
        if isinstance(event, BlockStored) and len(event.block_hashes) > 1:
            size = event.block_size * 3 // 2
            count = len(event.token_ids) // size
            out.append(
                msgspec.structs.replace(
                    event,
                    block_hashes=event.block_hashes[:count],
                    token_ids=event.token_ids[: count * size],
                    block_size=size,
                    extra_keys=None,
                )
            )
    return out


def with_pictures(told: Sequence[KVEvent]) -> list[KVEvent]:
    return [
        msgspec.structs.replace(one, extra_keys=[[["a-picture", 0]] for _ in one.block_hashes])
        if isinstance(one, BlockStored)
        else one
        for one in told
    ]


def renamed(told: Sequence[KVEvent]) -> list[KVEvent]:
    """The same blocks under the hashes of another seed, and nothing of it that went before."""

    def other(hashes: Sequence[int | bytes]) -> list[int | bytes]:
        return [hash(("seed", one)) & (2**63 - 1) for one in hashes]

    out: list[KVEvent] = []
    for one in told:
        if isinstance(one, BlockStored):
            parent = one.parent_block_hash
            out.append(
                msgspec.structs.replace(
                    one,
                    block_hashes=other(one.block_hashes),
                    parent_block_hash=None if parent is None else other([parent])[0],
                )
            )
        elif isinstance(one, BlockRemoved):
            out.append(msgspec.structs.replace(one, block_hashes=other(one.block_hashes)))
        else:
            out.append(one)
    return out


def of_a_version_to_come(told: Sequence[KVEvent]) -> bytes:
    raw = msgspec.msgpack.decode(encode_batch(KVEventBatch(ts=1.0, events=list(told))))
    for event in raw[1]:
        event["type"] += "V9"
    return msgspec.msgpack.encode(raw)


def unsaid(told: Sequence[KVEvent]) -> list[KVEvent]:
    return []


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


async def test_a_seed_that_changes_under_known_blocks_costs_what_was_known(models: Models) -> None:
    async with rigged(models.words, models.directory) as rig:
        rig.join()
        await rig.is_exact()
        await rig.asked_until(lambda trust: trust.checks >= 5, chat)
        rig.events.change = unsaid
        async with rig.http.post(f"{rig.door.url}/reset_prefix_cache") as answer:
            assert answer.status == 200
        rig.events.change = renamed
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
            await rig.ask(body, path)
        await rig.asked_until(lambda trust: trust.checks >= 5, chat)
        rig.events.change = lambda told: [
            one for one in told if not isinstance(one, AllBlocksCleared)
        ]
        async with rig.http.post(f"{rig.door.url}/reset_prefix_cache") as answer:
            assert answer.status == 200
        index = rig.api.router.dispatcher.index
        held = index.block_count("w0")
        for number, (path, body) in enumerate(prompts, start=1):
            checks = rig.trust.checks
            await rig.ask(body, path)
            await eventually(lambda checks=checks: rig.trust.checks > checks)  # type: ignore[misc]
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
        await rig.asked_until(lambda trust: trust.cause is Cause.PREFIX_CACHING_OFF, same_chat)
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
        api = rig.api
        await eventually(lambda: api.counted("router_trust_probes_total", end="checked") == 1)
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
        await eventually(lambda: rig.trust.state is State.FALLBACK)
        rig.events.change = None
        await rig.is_exact(20)


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
        await asyncio.sleep(0.5)
        book = rig.api.router.dispatcher.trust
        print(f"\nchecks: {dict(book.checks)}, doubt {rig.trust.doubt:.3f}")
        assert seen == {State.EXACT}
        assert book.checks[True] > 30
        assert book.checks[False] < book.checks[True] / 20
