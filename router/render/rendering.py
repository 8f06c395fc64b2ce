"""Rendering for requests: bounded in time, size and number, and never an error of the request.

Templates and tokenizers run in threads (`router.render.lane`), short prompts apart from long ones;
but for chats of which little is new, where going to a thread would cost more than the work.
Whatever goes wrong, the request goes on with bytes in place of token ids, and the reason is said.
"""

from __future__ import annotations

from functools import partial

from rhizome.clock import Clock
from rhizome.render.outcomes import CannotRender, Rendered, Why
from rhizome.render.remembering import TokenPart, joined_ids
from rhizome.render.renderer import Renderer, completion_ids, one_part
from rhizome.settings.tree import RenderingSettings
from router.faults import Faults, Part
from router.http.bodies import ChatBody, CompletionBody, EngineBody
from router.render.approximate import render_approximate
from router.render.chains import Chains
from router.render.lane import Lane

SHORT_BYTES_MAX = 4 * 1024
"""Longest body that counts as short: about a millisecond of tokenization."""
INLINE_BYTES_MAX = 64 * 1024
"""Longest body of a chat whose template is run on the event loop."""
INLINE_S = 0.005
"""Longest run of a template there; after one that takes longer all go to the threads."""
INLINE_NEW_CHARS_MAX = 8 * 1024
"""Most characters tokenized there: what is new of a chat whose earlier messages are remembered."""
WAITING_MAX = 64
"""Most prompts of either kind in the threads and waiting for them."""
BODY_BYTES_MAX = 8 * 2**20
"""Longest body whose token ids are worth their time."""
_FAULTS = {
    Why.TEMPLATE_TOO_LONG: Part.TEMPLATE,
    Why.OUTPUT_TOO_LONG: Part.TEMPLATE,
    Why.TOKENIZER_FAILED: Part.TOKENIZER,
    Why.DEADLINE: Part.TOKENIZER,
    Why.STALLED: Part.TOKENIZER,
    Why.BUSY: Part.RENDERING,
}
"""Reasons that an operator should hear of, with the part that they blame."""


class Rendering:
    """Renders one model's prompts; without a renderer, always in approximate mode."""

    def __init__(
        self,
        renderer: Renderer | None,
        faults: Faults,
        settings: RenderingSettings,
        clock: Clock,
    ) -> None:
        self._renderer = renderer
        self._faults = faults
        self._short = Lane(1, WAITING_MAX, settings, clock)
        self._long = Lane(2, WAITING_MAX, settings, clock)
        self._chains = Chains()
        self._may_inline = isinstance(renderer, Renderer)

    async def render(self, body: EngineBody) -> Rendered:
        """The prompt of the body (of several, the first); raises nothing for any body."""
        return self.at_once(body) or await self.later(body)

    def at_once(self, body: EngineBody) -> Rendered | None:
        """The same where it is had quickly, else None: it takes a thread, and `later` waits for
        it."""
        if not isinstance(body, (ChatBody, CompletionBody)):
            return Rendered(None, b"", Why.NO_PROMPT)
        if not isinstance(body, ChatBody):
            return None
        if self._renderer is None:
            return Rendered(None, render_approximate(body.fields, body.texts), Why.NO_TOKENIZER)
        if not self._may_inline or len(body.raw) > INLINE_BYTES_MAX:
            return None
        try:
            parts = self._renderer.chat_parts(body.chat(), INLINE_S, INLINE_NEW_CHARS_MAX)
        except CannotRender as error:  # the threads shall say the reason
            self._may_inline = error.why is not Why.TEMPLATE_TOO_LONG
            return None
        except Exception as error:
            return self._faulty(body, error)
        return None if parts is None else self._exact(body, parts)

    async def later(self, body: EngineBody) -> Rendered:
        """The same for what is not had at once."""
        assert isinstance(body, (ChatBody, CompletionBody))
        try:
            parts = await self._parts(body)
        except CannotRender as error:
            if error.why in _FAULTS:
                self._faults.note(_FAULTS[error.why], str(error))
            return Rendered(None, render_approximate(body.fields, body.texts), error.why)
        except Exception as error:
            return self._faulty(body, error)
        return self._exact(body, parts)

    def _faulty(self, body: EngineBody, error: Exception) -> Rendered:
        """Whatever a model's files make go wrong, the request goes on."""
        self._faults.note(Part.RENDERING, error)
        return Rendered(None, render_approximate(body.fields, body.texts), Why.FAULT)

    def _exact(self, body: EngineBody, parts: list[TokenPart]) -> Rendered:
        several = isinstance(body, CompletionBody) and len(body.prompts) > 1
        why = Why.SEVERAL_PROMPTS if several else Why.EXACT
        if len(parts) == 1:
            return Rendered(parts[0].ids, b"", why)
        return Rendered(joined_ids(parts), b"", why, partial(self._chains.hashes, parts))

    def close(self) -> None:
        """Lets the threads end; those at work end by their own limits."""
        self._short.close()
        self._long.close()

    async def _parts(self, body: ChatBody | CompletionBody) -> list[TokenPart]:
        if isinstance(body, CompletionBody) and not isinstance(body.first_prompt, str):
            return one_part(completion_ids(body.fields, body.first_prompt))
        renderer = self._renderer
        if renderer is None:
            raise CannotRender(Why.NO_TOKENIZER)
        size = len(body.raw)
        if size > BODY_BYTES_MAX:
            raise CannotRender(Why.OUTPUT_TOO_LONG)
        lane = self._short if size <= SHORT_BYTES_MAX else self._long
        # a template ends by itself soon after nobody waits for it any more
        limit_s = 2 * lane.allowance_s(size)
        return await lane.run(lambda: _work(renderer, body, limit_s), size)


def _work(renderer: Renderer, body: ChatBody | CompletionBody, limit_s: float) -> list[TokenPart]:
    if isinstance(body, CompletionBody):
        return one_part(renderer.completion_ids(body.fields, body.first_prompt))
    parts = renderer.chat_parts(body.chat(), limit_s)
    assert parts is not None
    return parts
