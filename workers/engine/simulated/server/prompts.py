"""Prompts of requests: checked, rendered here or in a thread, and bounded.

Long prompts are tokenized in a thread, so that other workers of this process go on meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rhizome.render.outcomes import CannotRender
from rhizome.render.renderer import BUDGET_S
from workers.engine.simulated.server.bodies import ChatBody, CompletionBody, GenerationBody
from workers.engine.simulated.server.checks import check_media_arguments
from workers.engine.simulated.server.http import Exchange
from workers.engine.simulated.server.refusals import Refusal, unrendered
from workers.engine.simulated.server.sampling import check_lengths, too_long

if TYPE_CHECKING:
    from workers.engine.simulated.server.worker import SimulatedWorker

INLINE_BYTES_MAX = 16 * 1024
"""Longest body whose prompt is tokenized on the event loop."""
_OF_PROMPTS = frozenset(
    {
        "add_generation_prompt",
        "add_special_tokens",
        "continue_final_message",
        "truncate_prompt_tokens",
    }
)
Prompts = list[list[int]]
Then = Callable[[Exchange, GenerationBody, Prompts], None]
"""What becomes of a body whose prompts are there; raises `Refusal`."""


class PromptMaker:
    """Makes the prompts of one worker's requests."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None

    def complete(
        self, exchange: Exchange, body: CompletionBody, fields: dict[str, Any], then: Then
    ) -> None:
        self._worker.check_model(body.model)
        check_media_arguments(fields)
        self._read_prompt_fields(body, fields)

        def render() -> Prompts:
            renderer = self._worker.words.renderer
            if body.truncate_prompt_tokens == 0:
                return [[] for _ in body.prompts]
            return [renderer.completion_ids(fields, prompt) for prompt in body.prompts]

        text = any(isinstance(prompt, str) for prompt in body.prompts)
        self._whenrendered(exchange, body, render, then, text=text)

    def chat(self, exchange: Exchange, body: ChatBody, fields: dict[str, Any], then: Then) -> None:
        self._read_prompt_fields(body, fields)

        def render() -> Prompts:
            if body.truncate_prompt_tokens == 0:
                return [[]]
            return [self._worker.words.renderer.chat_ids(fields, BUDGET_S)]

        self._whenrendered(exchange, body, render, then, text=True)

    def _read_prompt_fields(self, body: GenerationBody, fields: dict[str, Any]) -> None:
        """Makes what decides on the prompt what was read of it: `"5"` is 5, -1 what fits."""
        given = body.model_fields_set & _OF_PROMPTS & fields.keys()
        fields |= {name: getattr(body, name) for name in given}
        if body.truncate_prompt_tokens == -1:
            context = self._worker.setup.profile.max_model_len
            fields["truncate_prompt_tokens"] = context - bool(body.output_limit)

    def _whenrendered(
        self,
        exchange: Exchange,
        body: GenerationBody,
        render: Callable[[], Prompts],
        then: Then,
        *,
        text: bool,
    ) -> None:
        """Renders here or in a thread, `then` goes on; raises `Refusal` only if it was here."""
        check_lengths(body, self._worker.setup.profile.max_model_len)
        if not text or len(exchange.request.body) <= INLINE_BYTES_MAX:
            then(exchange, body, rendered(render))
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

        def go_on(done: asyncio.Future[Prompts]) -> None:
            if not done.cancelled():
                try:
                    then(exchange, body, done.result())
                except Refusal as refusal:
                    exchange.refuse(refusal)

        self._loop.run_in_executor(self._threads, rendered, render).add_done_callback(go_on)

    def limit(self, body: GenerationBody, prompt: Sequence[int]) -> int:
        """The most output tokens for this prompt; raises `Refusal` for one that cannot run."""
        profile = self._worker.setup.profile
        longest = min(profile.max_model_len, profile.kv_tokens)
        if len(prompt) > longest:
            raise too_long(body, prompt, longest, self._worker.words)
        room, asked = longest - len(prompt), body.output_limit
        return room if asked is None else min(room, asked)


def rendered(render: Callable[[], Prompts]) -> Prompts:
    try:
        return render()
    except CannotRender as error:
        raise unrendered(error) from error
