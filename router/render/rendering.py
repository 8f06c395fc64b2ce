"""Rendering for requests: bounded in time, size and number, and never an error of the request.

Short prompts are rendered where they are, on the event loop; long ones by a few threads, with a
deadline and a bounded number waiting. Whatever goes wrong, the request goes on with bytes in
place of token ids, and the reason is said.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from rhizome.render.outcomes import CannotRender, Rendered, Why
from rhizome.render.renderer import Renderer, completion_ids
from router.http.bodies import ChatBody, CompletionBody, EngineBody
from router.render.approximate import render_approximate

_log = logging.getLogger(__name__)

INLINE_BYTES_MAX = 4 * 1024
"""Longest body rendered on the event loop: about a millisecond of tokenization."""
INLINE_S = 0.02
"""Longest run of a template on the event loop; after one that is longer all go to the threads."""
DEADLINE_S = 2.0
"""Longest wait for a long prompt, in seconds."""
WAITING_MAX = 64
"""Most long prompts in the threads and waiting for them."""
BODY_BYTES_MAX = 8 * 2**20
"""Longest body whose token ids are worth their time."""
_THREADS = 2


class Rendering:
    """Renders one model's prompts; without a renderer, always in approximate mode."""

    def __init__(self, renderer: Renderer | None, *, deadline_s: float = DEADLINE_S) -> None:
        self._renderer = renderer
        self._deadline_s = deadline_s
        self._may_inline = True
        self._waiting = 0
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    async def render(self, body: EngineBody) -> Rendered:
        """The prompt of the body (of several, the first); raises nothing for any body."""
        if not isinstance(body, ChatBody | CompletionBody):
            return Rendered(None, b"", Why.NO_PROMPT)
        try:
            token_ids = await self._token_ids(body)
        except CannotRender as error:
            if error.why in _FAULTS:
                _log.warning("a prompt for %s is approximate: %s", body.model, error)
            return Rendered(None, render_approximate(body.fields), error.why)
        except Exception:  # whatever a model's files make go wrong, the request goes on
            _log.exception("rendering a prompt for %s failed", body.model)
            return Rendered(None, render_approximate(body.fields), Why.FAULT)
        several = isinstance(body, CompletionBody) and len(body.prompts) > 1
        return Rendered(token_ids, b"", Why.SEVERAL_PROMPTS if several else Why.EXACT)

    def close(self) -> None:
        """Stops the threads; those at work end by their own limits."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _token_ids(self, body: ChatBody | CompletionBody) -> list[int]:
        if isinstance(body, CompletionBody) and not isinstance(body.first_prompt, str):
            return completion_ids(body.fields, body.first_prompt)
        renderer = self._renderer
        if renderer is None:
            raise CannotRender(Why.NO_TOKENIZER)
        if len(body.raw) > BODY_BYTES_MAX:
            raise CannotRender(Why.OUTPUT_TOO_LONG)
        if len(body.raw) <= INLINE_BYTES_MAX and self._may_inline:
            try:
                return _work(renderer, body, INLINE_S)
            except CannotRender as error:
                if error.why is not Why.TEMPLATE_TOO_LONG:
                    raise
                self._may_inline = False
                _log.warning("the chat template of %s is slow; it leaves the loop", body.model)
        return await self._in_thread(lambda: _work(renderer, body, self._deadline_s))

    async def _in_thread(self, work: Callable[[], list[int]]) -> list[int]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="render")
        with self._lock:  # a job ends on its own thread
            if self._waiting >= WAITING_MAX:
                raise CannotRender(Why.BUSY)
            self._waiting += 1
        job = self._threads.submit(work)
        job.add_done_callback(self._ended)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), self._deadline_s)
        except TimeoutError as error:
            raise CannotRender(Why.DEADLINE) from error

    def _ended(self, job: Future[list[int]]) -> None:
        with self._lock:
            self._waiting -= 1


def _work(renderer: Renderer, body: ChatBody | CompletionBody, limit_s: float) -> list[int]:
    if isinstance(body, ChatBody):
        return renderer.chat_ids(body.chat(), limit_s)
    return renderer.completion_ids(body.fields, body.first_prompt)


_FAULTS = frozenset(
    {Why.TEMPLATE_TOO_LONG, Why.OUTPUT_TOO_LONG, Why.TOKENIZER_FAILED, Why.DEADLINE, Why.BUSY}
)
"""Reasons that an operator should hear of."""
