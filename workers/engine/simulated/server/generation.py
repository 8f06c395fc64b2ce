"""Completions and chats: from a body to choices in the engine, in vLLM's order of checks.

A request joins the engine when its prompt is there, unless its client has left.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from rhizome.ids import new_id
from rhizome.render.renderer import BUDGET_S
from workers.engine.simulated.server.answers import Form, Heading, Question, answer
from workers.engine.simulated.server.bodies import (
    ChatBody,
    CompletionBody,
    GenerationBody,
    read_chat,
    read_completion,
    read_invoked,
    refuse_beams,
)
from workers.engine.simulated.server.chat_answers import CHAT
from workers.engine.simulated.server.completion_answers import COMPLETION
from workers.engine.simulated.server.http import Exchange
from workers.engine.simulated.server.message_bodies import MessageBody, read_count, read_message
from workers.engine.simulated.server.messages import (
    MessageStream,
    WholeMessage,
    refused,
    tell_fault,
)
from workers.engine.simulated.server.prompts import PromptMaker, Prompts, Then, rendered
from workers.engine.simulated.server.rank import Choice, Rank, root_key
from workers.engine.simulated.server.refusals import MALFORMED, Refusal
from workers.engine.simulated.server.rendering import Offsets, rendered_request
from workers.engine.simulated.server.response_bodies import (
    ResponseBody,
    read_response,
    unknown_response,
)
from workers.engine.simulated.server.responses import WholeResponse, break_off, streamed
from workers.engine.simulated.server.sampling import (
    check_prompts,
    check_sampling,
    check_vocabulary,
    check_words,
    longer_than,
)
from workers.engine.simulated.server.script import write_script

if TYPE_CHECKING:
    from workers.engine.simulated.server.worker import SimulatedWorker

_ADAPTER = b"x-amzn-sagemaker-adapter-identifier"
_FORMS: dict[type[GenerationBody], Form] = {
    CompletionBody: COMPLETION,
    ChatBody: CHAT,
    ResponseBody: Form("resp_", WholeResponse, streamed, break_off),
    MessageBody: Form("chatcmpl-", WholeMessage, MessageStream, tell_fault),
}


class Generation:
    """The generating endpoints of one worker."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker
        self._parses_calls = worker.setup.tool_parser
        self._check_model = worker.check_model
        self._loop = asyncio.get_running_loop()
        self._prompts = PromptMaker(worker)

    def complete(self, exchange: Exchange) -> None:
        body, fields = read_completion(exchange.request.body)
        refuse_beams(body)
        self._prompts.complete(exchange, body, fields, self._generate)

    def chat(self, exchange: Exchange) -> None:
        body, fields = read_chat(exchange.request.body, self._check_model, self._parses_calls)
        refuse_beams(body)
        self._prompts.chat(exchange, body, fields, self._generate)

    def render_completion(self, exchange: Exchange) -> None:
        """The tokens of a completion's prompts, and what else an engine has to be told."""
        body, fields = read_completion(exchange.request.body)
        self._prompts.complete(
            exchange, body, fields, self._show_with(lambda at: str(body.prompts[at]))
        )

    def render_chat(self, exchange: Exchange) -> None:
        body, fields = read_chat(exchange.request.body, self._check_model, self._parses_calls)
        text_of = self._worker.words.renderer.chat_text
        then = self._show_with(lambda _: text_of(fields, BUDGET_S))
        self._prompts.chat(exchange, body, fields, then)

    def render_message(self, exchange: Exchange) -> None:
        read = read_message(exchange.request.body, self._check_model, self._parses_calls)
        self._prompts.chat(exchange, *read, self._show_with(None))

    def render_response(self, exchange: Exchange) -> None:
        read = read_response(exchange.request.body, self._check_model, self._parses_calls)
        self._prompts.chat(exchange, *read, self._show_with(None))

    def invoke(self, exchange: Exchange) -> None:
        """A chat or a completion, whichever the body fits; the model is not for the body to say."""
        fields = read_invoked(exchange.request.body)
        fields["model"] = exchange.request.header(_ADAPTER)
        exchange.request.body = json.dumps(fields).encode()
        for handler in (self.chat, self.complete):
            try:
                handler(exchange)
            except Refusal as refusal:
                if refusal.kind != MALFORMED:
                    raise
            else:
                return
        raise Refusal(
            "Cannot find suitable handler for request. Expected one of: "
            "['ChatCompletionRequest', 'CompletionRequest']"
        )

    def respond(self, exchange: Exchange) -> None:
        self._prompts.chat(
            exchange,
            *read_response(exchange.request.body, self._check_model, self._parses_calls),
            self._generate,
        )

    def find_response(self, exchange: Exchange) -> None:
        """Looks for a stored response: there is none."""
        raise unknown_response(exchange.request.path.split("/")[3])

    def message(self, exchange: Exchange) -> None:
        exchange.error_form = refused
        self._prompts.chat(
            exchange,
            *read_message(exchange.request.body, self._check_model, self._parses_calls),
            self._generate,
        )

    def count_message(self, exchange: Exchange) -> None:
        """How many tokens a message's prompt has."""
        exchange.error_form = refused
        chat = read_count(exchange.request.body, self._check_model, self._parses_calls)
        (prompt,) = rendered(lambda: [self._worker.words.renderer.chat_ids(chat, BUDGET_S)])
        count = len(prompt)
        longest = self._worker.setup.profile.max_model_len
        if count > longest:
            raise longer_than(longest)
        context = {"original_input_tokens": count}
        exchange.reply(
            200, msgspec.json.encode({"input_tokens": count, "context_management": context})
        )

    def _show_with(self, text_of: Callable[[int], str] | None) -> Then:
        """Answers with what an engine that takes tokens would be asked; texts are by prompt."""

        def show(exchange: Exchange, body: GenerationBody, prompts: Prompts) -> None:
            if body.use_beam_search:
                raise Refusal("Beam search is not supported by the render endpoint")
            limits = [self._prompts.limit(body, prompt) for prompt in prompts]
            check_sampling(body, min(limits))
            name = self._request_id(exchange, body)
            told = []
            for at, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
                own = name if len(prompts) == 1 else f"{name}-{at}"
                asked = text_of is not None and body.return_token_offsets
                offsets = self._offsets(body, text_of(at), prompt) if asked and text_of else None
                told.append(rendered_request(body, prompt, offsets, limit, own))
            exchange.reply(
                200, msgspec.json.encode(told if isinstance(body, CompletionBody) else told[0])
            )

        return show

    def _offsets(self, body: GenerationBody, text: str, prompt: list[int]) -> Offsets | None:
        """Where each token of a text is in it; None for tokens that came without a text."""
        if isinstance(body, CompletionBody) and not isinstance(body.prompts[0], str):
            return None
        special = isinstance(body, CompletionBody)
        found = self._worker.words.library.encode(text, add_special_tokens=special).offsets
        if body.truncation_side == "right":
            return found[: len(prompt)]
        return found[len(found) - len(prompt) :]

    def _generate(self, exchange: Exchange, body: GenerationBody, prompts: Prompts) -> None:
        """Hands the prompts to the engine, after the time that a request takes before it."""
        overhead_s = self._worker.setup.profile.request_overhead_ms / 1000
        if overhead_s > 0:
            self._loop.call_later(overhead_s, self._begin_late, exchange, body, prompts)
        else:
            self._begin(exchange, body, prompts)

    def _begin_late(self, exchange: Exchange, body: GenerationBody, prompts: Prompts) -> None:
        try:
            self._begin(exchange, body, prompts)
        except Refusal as refusal:
            exchange.refuse(refusal)

    def _begin(self, exchange: Exchange, body: GenerationBody, prompts: Prompts) -> None:
        """Checks the prompts and puts their choices into the engine."""
        if exchange.gone:
            return
        limits = [self._prompts.limit(body, prompt) for prompt in prompts]
        check_sampling(body, min(limits))
        form = _FORMS[type(body)]
        try:
            rank, choices = self._accepted(exchange, body, prompts, limits)
        except Refusal as refusal:
            # Engines look at requests after the answer has begun.
            if not body.stream or refusal.status != HTTPStatus.BAD_REQUEST:
                raise
            form.fail(self._question(exchange, body, [], min(limits)), refusal)
            return
        question = self._question(exchange, body, choices, min(limits))
        answer(question, form)
        exchange.on_gone = lambda: _abort(rank, question.choices)
        priority = body.priority if rank.profile.policy == "priority" else 0
        for choice in question.choices:
            rank.submit(choice, priority)

    def _accepted(
        self,
        exchange: Exchange,
        body: GenerationBody,
        prompts: Prompts,
        limits: Sequence[int],
    ) -> tuple[Rank, list[Choice]]:
        """Where it runs and as what; raises `Refusal` for what an engine does not take."""
        vocabulary = self._worker.words.size
        check_vocabulary(body, vocabulary)
        rank = self._rank(exchange)
        check_prompts(prompts, vocabulary)
        check_words(body)
        return rank, self._choices(body, prompts, limits)

    def _rank(self, exchange: Exchange) -> Rank:
        text = exchange.request.header(b"x-data-parallel-rank")
        wanted: int | None = None
        if text is not None and text.strip().lstrip("+-").isdigit():
            wanted = int(text)
            ranks = len(self._worker.ranks)
            if not 0 <= wanted < ranks:
                raise Refusal(f"data_parallel_rank {wanted} is out of range [0, {ranks}).")
        return self._worker.rank_for(wanted)

    def _choices(
        self, body: GenerationBody, prompts: Prompts, limits: Sequence[int]
    ) -> list[Choice]:
        setup = self._worker.setup
        seed = setup.seed if body.seed is None or body.temperature == 0 else body.seed
        adapter = body.model if body.model in setup.adapters else None
        number = list(setup.adapters).index(adapter) + 1 if adapter else 0
        root = root_key(adapter, body.cache_salt)
        choices: list[Choice] = []
        for at, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
            for copy in range(body.choices):
                script = write_script(self._worker.words, prompt, body, limit, seed + copy)
                choice = Choice(self._worker.name_of_next(), len(choices), at, script)
                choice.root = root
                choice.salt = body.cache_salt
                choice.session_id = body.session_id
                choice.reads_cache = body.prompt_logprobs_asked is None
                choice.adapter = (number, adapter) if adapter else None
                choices.append(choice)
        return choices

    def _question(
        self,
        exchange: Exchange,
        body: GenerationBody,
        choices: list[Choice],
        limit: int,
    ) -> Question:
        heading = Heading(
            request_id=self._request_id(exchange, body),
            created=int(self._worker.clock.wall_s()),
            model=body.model or self._worker.setup.model,
        )
        shows_prompt = bool(choices) and body.return_prompt_text
        echoes = self._echoes(body) if body.echo and isinstance(body, CompletionBody) else ()
        return Question(
            exchange=exchange,
            heading=heading,
            body=body,
            choices=choices,
            echoes=echoes,
            prompt_text=self._prompt_text(choices[0]) if shows_prompt else None,
            tool_parser=self._parses_calls,
            block_size=self._worker.setup.profile.block_size,
            limit=limit,
        )

    def _request_id(self, exchange: Exchange, body: GenerationBody) -> str:
        """Of the answer; a response's is what the body says, without a prefix, else its own."""
        if isinstance(body, ResponseBody) and body.request_id:
            return body.request_id
        given = exchange.request.header(b"x-request-id") or body.request_id
        if isinstance(body, ResponseBody) or not given:
            given = new_id("x")[2:18]
        return f"{_FORMS[type(body)].prefix}{given}"

    def _prompt_text(self, choice: Choice) -> str:
        script = choice.script
        prompt = script.tokens[: script.prompt_len]
        return self._worker.words.library.decode(prompt, skip_special_tokens=False)

    def _echoes(self, body: CompletionBody) -> list[str]:
        if body.return_token_ids:
            return ["" for _ in body.prompts]
        decode: Any = self._worker.words.renderer.detokenize
        return [one if isinstance(one, str) else decode(one) for one in body.prompts]


def _abort(rank: Rank, choices: Sequence[Choice]) -> None:
    for choice in choices:
        rank.abort(choice)
