"""The simulated scheduler beside vLLM's own one, step by step, over random workloads.

vLLM's scheduler runs alone, without a model: each step's tokens are made up. For each step both
must admit, preempt and finish the same requests with the same hits, give out the same tokens, hold
the same number of blocks, and tell the same cache events in the same order.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.simulated_runs import profile
from workers.demo_models import ensure_model
from workers.engine.simulated.cache import CacheEvent, Removed, Stored
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.requests import SimRequest
from workers.engine.simulated.scheduler import Scheduler

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # torch and vLLM warn of themselves
]

_TOKENS_MAX, _STEPS_MAX = 60, 1000
Key = tuple[int, ...]


@dataclass(frozen=True)
class Sent:
    """One request: the tokens of its prompt, then those that it will make."""

    name: str
    tokens: Key
    prompt_len: int
    at_step: int
    abort_at_step: int | None
    priority: int


def _load(rng: Random, at_most: int) -> list[Sent]:
    sent = []
    at_step = 0
    for number in range(rng.randint(1, at_most)):
        at_step += rng.choice([0, 0, 1, 5, 30])
        prompt_len = rng.randint(1, 45)
        total = prompt_len + rng.randint(1, _TOKENS_MAX - 1 - prompt_len)
        # Texts of few kinds that part at random places, so that prefixes are shared.
        parts_at, kind = rng.choice([0, 4, 9, 20, 60]), rng.randint(0, 2)
        tokens = tuple(1 + (index if index < parts_at else 100 + kind) for index in range(total))
        abort = at_step + rng.choice([0, 2, 9]) if rng.random() < 0.15 else None
        sent.append(Sent(f"r{number}", tokens, prompt_len, at_step, abort, rng.randint(0, 2)))
    return sent


def _engine(rng: Random) -> EngineProfile:
    size = rng.choice([2, 4, 8])
    full = -(-_TOKENS_MAX // size)
    return profile(
        block_size=size,
        kv_blocks=full + 1 + rng.choice([0, full // 3, full, 3 * full]),
        max_num_seqs=rng.randint(1, 6),
        max_num_batched_tokens=rng.choice([8, 16, 64]),
        long_prefill_token_threshold=rng.choice([0, 0, 5]),
        watermark=rng.choice([0.0, 0.0, 0.1]),
        policy=rng.choice(["fcfs", "priority"]),
        max_model_len=_TOKENS_MAX,
    )


class SimulatedSide:
    """Our scheduler, one step at a time."""

    def __init__(self, engine: EngineProfile) -> None:
        self._size = engine.block_size
        self._scheduler = Scheduler(engine, fuse=False)

    def add(self, sent: Sent) -> None:
        def key_of(block: int) -> Key:
            return sent.tokens[: (block + 1) * self._size]

        self._scheduler.add(
            SimRequest(
                sent.name,
                sent.prompt_len,
                [key_of(block) for block in range(sent.prompt_len // self._size)],
                len(sent.tokens) - sent.prompt_len,
                float(sent.at_step),
                sent.priority,
                key_of,
            )
        )

    def abort(self, name: str) -> None:
        self._scheduler.abort(name)

    def step(self) -> dict[str, object] | None:
        step = self._scheduler.step(0.0)
        self._scheduler.check_invariants()
        if step is None:
            return None
        return {
            "started": {each.request_id: each.cached_tokens for each in step.started},
            "preempted": step.preempted,
            "tokens": step.tokens,
            "finished": set(step.finished),
            "blocks": self._scheduler.kv_used_blocks,
            "queues": (self._scheduler.running, self._scheduler.waiting),
            "events": [told for event in step.events for told in _told(event)],
        }


def _told(event: CacheEvent) -> list[tuple[object, ...]]:
    if isinstance(event, Stored):
        return [("stored", list(event.keys), event.parent)]
    assert isinstance(event, Removed)
    return [("removed", key) for key in event.keys]


class VllmSide:
    """vLLM's scheduler with outputs made up, and its block hashes traced back to tokens."""

    def __init__(self, vllm: SimpleNamespace, engine: EngineProfile) -> None:
        self._vllm = vllm
        self._sent: dict[str, Sent] = {}
        self._keys: dict[Any, Key] = {}
        self._scheduler = vllm.scheduler(engine)
        self._hasher = vllm.hasher(engine.block_size)

    def add(self, sent: Sent) -> None:
        self._sent[sent.name] = sent
        parameters = self._vllm.SamplingParams(
            max_tokens=len(sent.tokens) - sent.prompt_len, ignore_eos=True
        )
        self._scheduler.add_request(
            self._vllm.Request(
                request_id=sent.name,
                prompt_token_ids=list(sent.tokens[: sent.prompt_len]),
                sampling_params=parameters,
                pooling_params=None,
                arrival_time=float(sent.at_step),
                priority=sent.priority,
                block_hasher=self._hasher,
            )
        )

    def abort(self, name: str) -> None:
        self._scheduler.finish_requests(name, self._vllm.RequestStatus.FINISHED_ABORTED)
        self._sent.pop(name, None)

    def step(self) -> dict[str, object] | None:
        scheduler = self._scheduler
        if not scheduler.requests:
            return None
        before = {each.request_id: each for each in scheduler.running}
        preemptions = {name: each.num_preemptions for name, each in before.items()}
        output = scheduler.schedule()
        preempted = [
            each.request_id
            for each in list(scheduler.waiting)
            if preemptions.get(each.request_id, each.num_preemptions) < each.num_preemptions
        ]
        started = {
            each.req_id: each.num_computed_tokens
            for each in output.scheduled_new_reqs
            if not scheduler.requests[each.req_id].num_preemptions
        }
        tokens = self._sample(output)
        scheduler.update_from_output(output, tokens[1])
        return {
            "started": started,
            "preempted": set(preempted),
            "tokens": tokens[0],
            "finished": {name for name in output.num_scheduled_tokens if self._ended(name)},
            "blocks": scheduler.kv_cache_manager.block_pool.num_gpu_blocks
            - 1
            - scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            "queues": (len(scheduler.running), len(scheduler.waiting)),
            "events": [told for event in self._events() for told in self._traced(event)],
        }

    def _sample(self, output: Any) -> tuple[dict[str, int], Any]:
        names = list(output.num_scheduled_tokens)
        sampled: list[list[int]] = []
        gained: dict[str, int] = {}
        for name in names:
            request = self._scheduler.requests[name]
            if request.num_computed_tokens < request.num_tokens:
                sampled.append([])
            else:
                sampled.append([self._sent[name].tokens[request.num_tokens]])
                gained[name] = 1
        index = {name: position for position, name in enumerate(names)}
        return gained, self._vllm.ModelRunnerOutput(
            req_ids=names, req_id_to_index=index, sampled_token_ids=sampled
        )

    def _ended(self, name: str) -> bool:
        return name not in self._scheduler.requests

    def _events(self) -> list[Any]:
        told: list[Any] = self._vllm.events
        events = [event for batch in told for event in batch.events]
        told.clear()
        return [*events, *self._scheduler.kv_cache_manager.take_events()]

    def _traced(self, event: Any) -> list[tuple[object, ...]]:
        if type(event).__name__ == "BlockRemoved":
            return [("removed", self._keys[each]) for each in event.block_hashes]
        parent = self._keys[event.parent_block_hash] if event.parent_block_hash else None
        keys, before = [], parent or ()
        for number, each in enumerate(event.block_hashes):
            tokens = event.token_ids[number * event.block_size : (number + 1) * event.block_size]
            before = self._keys[each] = (*before, *tokens)
            keys.append(before)
        return [("stored", keys, parent)]


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is needed of vLLM, imported once."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and vLLM warn of themselves
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        yield _vllm(ensure_model("demo:mixtral", tmp_path_factory.mktemp("models")))


def _vllm(model: Path) -> SimpleNamespace:
    from vllm import SamplingParams
    from vllm.config import ModelConfig
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request, RequestStatus

    init_none_hash(sha256)
    model_config = ModelConfig(model=str(model), dtype="float32", max_model_len=_TOKENS_MAX)
    events: list[Any] = []
    return SimpleNamespace(
        scheduler=lambda engine: _vllm_scheduler(model_config, engine, events),
        hasher=lambda block_size: get_request_block_hasher(block_size, sha256),
        events=events,
        ModelRunnerOutput=ModelRunnerOutput,
        Request=Request,
        RequestStatus=RequestStatus,
        SamplingParams=SamplingParams,
    )


def _vllm_scheduler(model_config: Any, engine: EngineProfile, events: list[Any]) -> Any:
    """vLLM's own scheduler of an engine of the profile; what it publishes goes to `events`."""
    import torch
    from vllm.config import CacheConfig, SchedulerConfig, VllmConfig
    from vllm.config.kv_events import KVEventsConfig
    from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    cache = CacheConfig(block_size=engine.block_size, enable_prefix_caching=True)
    config = VllmConfig(
        model_config=model_config,
        cache_config=cache,
        scheduler_config=SchedulerConfig(
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_model_len=_TOKENS_MAX,
            long_prefill_token_threshold=engine.long_prefill_token_threshold,
            watermark=engine.watermark,
            policy=engine.policy,
            enable_chunked_prefill=True,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
    )
    cache.num_gpu_blocks = engine.kv_blocks
    spec = FullAttentionSpec(
        block_size=engine.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
    )
    made = VllmScheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=engine.kv_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=engine.block_size,
    )
    made.kv_event_publisher = SimpleNamespace(publish=events.append)
    return made


@pytest.mark.parametrize("seed", range(40))
def test_every_step_is_the_one_that_vllm_takes(vllm: SimpleNamespace, seed: int) -> None:
    rng = Random(seed)
    engine = _engine(rng)
    load = _load(rng, 14)
    ours, theirs = SimulatedSide(engine), VllmSide(vllm, engine)
    for number in range(_STEPS_MAX):
        for sent in load:
            if sent.at_step == number:
                ours.add(sent)
                theirs.add(sent)
        for sent in load:
            if sent.abort_at_step == number:
                ours.abort(sent.name)
                theirs.abort(sent.name)
        mine, other = ours.step(), theirs.step()
        if mine is not None:
            names = mine["preempted"]
            assert isinstance(names, list)
            mine["preempted"] = set(names)
        assert mine == other, f"step {number} of {engine}"
        if mine is None and number > load[-1].at_step:
            return
    raise AssertionError("the run does not end")
