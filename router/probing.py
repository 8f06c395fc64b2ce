"""Asks a new worker two small questions, to prove its events before traffic has to.

The same prompt of known token ids is sent twice: the first answer must be followed by events that
name its blocks as we hash them, the second must report them as reused. Both go to `Verifier` like
any other answer. A worker that is not exact is asked again now and then, so that trust comes back
without traffic. Requests do not wait for any of this; several routers may do it at once, since each
makes up prompts of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from random import Random

import aiohttp

from rhizome.clock import Clock
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.render.outcomes import Rendered, Why
from rhizome.settings.tree import PrefixSettings, TrustSettings
from rhizome.tasks import Tasks
from router.discovery.asking import Asker, WorkerSilent
from router.fleet import Fleet, Target, targets_of
from router.prompt import RenderedPrompt
from router.relay.dialect import OPENAI, Usage
from router.trust.causes import State
from router.trust.observations import Traits
from router.verifier import Expectation, Verifier

_log = logging.getLogger(__name__)
_PATH = "/v1/completions"
_BLOCKS = 3
_TOKENS_MAX = 4096
_TOKEN_IDS = range(64, 192)
"""Ids that every vocabulary has, and hardly any gives a special meaning."""
_PRIORITY_LAST = 1_000_000
_BYTES_MAX = 256 * 1024
_LOOK_S = 0.05
_ANNOUNCED_WAITS = 4
"""As long as answers wait until a block counts as missing."""
_TRAITS = Traits(text=False)


class ProbeEnd(StrEnum):
    """How a probe ended; also a metric label."""

    CHECKED = "checked"
    NOT_FOLLOWED = "not_followed"
    """The worker's events could not be followed in time."""
    SILENT = "silent"
    """The worker gave no usable answer in time."""


class TrustProber:
    """A fleet listener that registers itself; `run` ends only when cancelled."""

    def __init__(
        self,
        fleet: Fleet,
        verifier: Verifier,
        session: aiohttp.ClientSession,
        clock: Clock,
        rng: Random,
        settings: TrustSettings,
    ) -> None:
        self._fleet = fleet
        self._verifier = verifier
        self._session = session
        self._clock = clock
        self._rng = rng
        self._settings = settings
        self._tasks = Tasks("trust")
        self._probes: dict[str, asyncio.Task[None]] = {}
        self.ends: Counter[ProbeEnd] = Counter()
        """Probes by how they ended."""

    async def run(self) -> None:
        """Probes workers until cancelled."""
        async with self._tasks:
            self._fleet.listen(self)
            await asyncio.Event().wait()

    def joined(self, record: WorkerRecord) -> None:
        """Begins to probe the worker, if there are events to prove."""
        if record.events and record.block_size is not None:
            self._probes[record.worker_id] = self._tasks.start(
                record.worker_id, self._probe_worker(record)
            )

    def left(self, record: WorkerRecord) -> None:
        probes = self._probes.pop(record.worker_id, None)
        if probes is not None:
            probes.cancel()

    async def _probe_worker(self, record: WorkerRecord) -> None:
        while True:
            for target in targets_of(record):
                now = self._fleet.worker(record.worker_id)
                if now is not None and now.state is WorkerState.READY and self._doubted(target):
                    self.ends[await self._probe(target)] += 1
            await self._clock.sleep(self._settings.probe_again_s)

    def _doubted(self, target: Target) -> bool:
        trust = self._verifier.book.get(target.target_id)
        return trust is not None and trust.state is not State.EXACT

    async def _probe(self, target: Target) -> ProbeEnd:
        prompt, token_ids = self._prompt(target.record)
        settings, follows = self._settings, partial(self._verifier.follows, target.target_id)
        if not await self._eventually(follows, settings.probe_deadline_s):
            return ProbeEnd.NOT_FOLLOWED
        for matched_tokens in (0, max(0, len(token_ids) - 1)):
            expected = self._verifier.expectation(target, prompt, matched_tokens)
            try:
                usage = await self._ask(target, token_ids)
            except WorkerSilent as silent:
                _log.debug("no probe of %s: %s", target.target_id, silent)
                return ProbeEnd.SILENT
            announced = partial(self._is_announced, expected)
            await self._eventually(announced, _ANNOUNCED_WAITS * settings.check_after_s)
            self._verifier.conclude(expected, usage, _TRAITS)
        return ProbeEnd.CHECKED

    def _prompt(self, record: WorkerRecord) -> tuple[RenderedPrompt, list[int]]:
        """A prompt that nobody has sent before: a few blocks and a token more."""
        size = record.block_size or 1
        longest = min(_TOKENS_MAX, (record.max_model_len or _TOKENS_MAX) - 1)
        count = min(_BLOCKS * size + 1, longest)
        token_ids = [self._rng.choice(_TOKEN_IDS) for _ in range(count)]
        rendered = Rendered(token_ids, b"", Why.EXACT)
        return RenderedPrompt(rendered, None, PrefixSettings()), token_ids

    def _is_announced(self, expected: Expectation) -> bool:
        size = expected.target.record.block_size or 1
        found = self._verifier.found_blocks(expected)
        return found is not None and found >= expected.prompt.tokens // size

    async def _eventually(self, claim: Callable[[], bool], within_s: float) -> bool:
        """Whether it came true in time."""
        end_s = self._clock.monotonic_s() + within_s
        while not claim():
            if self._clock.monotonic_s() >= end_s:
                return False
            await self._clock.sleep(_LOOK_S)
        return True

    async def _ask(self, target: Target, token_ids: list[int]) -> Usage:
        """One token for the prompt, after all other work; raises `WorkerSilent`."""
        record = target.record
        asker = Asker(self._session, record.url, record.api_key, self._settings.probe_deadline_s)
        headers = {"x-request-id": "rhizome-probe"}
        if target.rank is not None:
            headers["x-data-parallel-rank"] = str(target.rank)
        body = {
            "model": record.model,
            "prompt": token_ids,
            "max_tokens": 1,
            "temperature": 0,
            "priority": _PRIORITY_LAST,
        }
        status, answer = await asker.post(_PATH, json.dumps(body).encode(), _BYTES_MAX, headers)
        if status == 400:  # an engine without priorities refuses them
            del body["priority"]
            sent = json.dumps(body).encode()
            status, answer = await asker.post(_PATH, sent, _BYTES_MAX, headers)
        usage = OPENAI.usage(answer) if status == 200 else None
        if usage is None:
            raise WorkerSilent(f"{_PATH} answered {status}")
        return usage
