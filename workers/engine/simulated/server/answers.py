"""Answers in vLLM's shapes: what whole ones and streams of all endpoints share.

Field order and presence are those of vLLM 0.32's models (`exclude_unset` in chunks, everything in
whole answers). Chunks are put together from bytes made once per request: all that is new for a
token is its text.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from workers.engine.simulated.server.bodies import GenerationBody
from workers.engine.simulated.server.http import Exchange
from workers.engine.simulated.server.likelihoods import Style, prompt_logprobs
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.refusals import Refusal

FINGERPRINT = "vllm-0.32.0-51d051d0"
DONE = b"data: [DONE]\n\n"
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Heading:
    """What every part of an answer begins with."""

    request_id: str
    created: int
    model: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked and is being answered."""

    exchange: Exchange
    heading: Heading
    body: GenerationBody
    choices: Sequence[Choice]
    """All of them, by index."""
    echoes: Sequence[str]
    """By prompt, the text that `echo` puts in front."""
    prompt_text: str | None
    """The prompt as the template made it, where it is to be told."""
    tool_parser: bool
    """Whether the engine reads tool calls out of what is said."""
    block_size: int
    limit: int
    """The most output tokens of a choice."""

    @property
    def style(self) -> Style | None:
        """How log probabilities are shown, where they were asked for."""
        count = self.body.logprobs_asked
        if count is None:
            return None
        listed = tuple(self.body.logprob_token_ids or ())
        return Style(count, bool(self.body.return_tokens_as_token_ids), listed)

    def prompt_logprobs(self, choice: Choice) -> list[dict[str, Any] | None] | None:
        count = self.body.prompt_logprobs_asked
        return None if count is None else prompt_logprobs(choice.script, count)

    @property
    def prompt_lengths(self) -> list[int]:
        lengths = {one.prompt_index: one.script.prompt_len for one in self.choices}
        return list(lengths.values())


class Answering(Protocol):
    """Turns tokens that arrive into an answer."""

    def deliver(self, choice: Choice, first: int, end: int) -> None: ...


class Form(NamedTuple):
    """How the answers of one endpoint look."""

    prefix: str
    """What its ids begin with."""
    whole: Callable[[Question], Answering]
    stream: Callable[[Question], Answering]
    fail: Callable[[Question, Refusal], None]
    """Answers a stream that the engine refuses."""


def tell_refusal(question: Question, refusal: Refusal) -> None:
    """A stream of nothing but the refusal."""
    question.exchange.begin_stream()
    question.exchange.end(b"data: " + refusal.body() + b"\n\n" + DONE)


def answer(question: Question, form: Form) -> None:
    """Lets the question's choices deliver into its answer."""
    if question.body.stream:
        question.exchange.begin_stream()
        answering = form.stream(question)
    else:
        answering = form.whole(question)
    for choice in question.choices:
        choice.deliver = answering.deliver


def usage_of(prompt: int, output: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


def created_tokens(choice: Choice, block_size: int) -> int:
    """Prompt tokens that the request newly put into the cache."""
    full = choice.script.prompt_len // block_size * block_size
    return max(0, full - choice.cached_tokens)


def quoted(text: bytes) -> msgspec.Raw:
    """Text that is escaped already, as a JSON string."""
    return msgspec.Raw(b'"' + text + b'"')


def escaped(text: str) -> bytes:
    return encode(text)[1:-1]


def plain(text: bytes) -> str:
    """Text that was escaped for a JSON string, as it is."""
    return str(json.loads(b'"' + text + b'"'))


class Whole(ABC):
    """An answer in one piece, sent with the last token."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._open = len(question.choices)

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        if end < choice.script.length:
            return
        self._open -= 1
        if not self._open:
            self._question.exchange.reply(200, encode(self._fields()))

    @abstractmethod
    def _fields(self) -> dict[str, Any]: ...

    def _usage(self, created: int | None) -> dict[str, Any]:
        question = self._question
        output = sum(one.script.length for one in question.choices)
        usage = usage_of(sum(question.prompt_lengths), output)
        return usage | {
            "prompt_tokens_details": {
                "cached_tokens": question.choices[-1].cached_tokens,
                "created_cache_tokens": created,
                "multimodal_tokens": None,
            },
            "completion_tokens_details": None,
        }

    def _ids(self, choice: Choice) -> list[int] | None:
        script = choice.script
        return script.output(0, script.length) if self._question.body.return_token_ids else None

    def _prompt_ids(self, choice: Choice) -> list[int] | None:
        script = choice.script
        return script.tokens[: script.prompt_len] if self._question.body.return_token_ids else None


class Stream(ABC):
    """A stream of chunks; subclasses know the shapes."""

    kind = ""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._open = len(question.choices)
        self._started = False
        self._cached_tokens = 0
        body = question.body
        extras = (body.return_token_ids, body.usage_in_each, body.echo, question.tool_parser)
        self._plain = body.logprobs_asked is None and not any(extras)
        """Whether all chunks but the first and the last of a choice are alike."""
        head = encode(question.heading.fields(self.kind))[:-1]
        self._heads = [b"data: " + head + self._before(one) for one in question.choices]

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        script = choice.script
        exchange = self._question.exchange
        if not self._started:
            self._started = True
            self._begin(choice)
        if self._plain and end < script.length:
            text = script.text(first, end)
            exchange.send(self._heads[choice.index] + text + self.plain_end)
            return
        rest = self._full(choice, first, end)
        if rest is not None:
            exchange.send(self._heads[choice.index] + rest)
        self._open -= end == script.length
        if self._open:
            return
        if self._question.body.includes_usage:
            exchange.send(self._last_usage())
        exchange.end(DONE)

    plain_end = b""

    @abstractmethod
    def _before(self, choice: Choice) -> bytes:
        """A chunk from the heading's end to the text."""

    def _begin(self, choice: Choice) -> None:
        """The first token has come; what is to be sent before it is sent now."""
        self._cached_tokens = choice.cached_tokens

    @abstractmethod
    def _full(self, choice: Choice, first: int, end: int) -> bytes | None:
        """A chunk from the text on; None for a chunk that would say nothing."""

    @abstractmethod
    def _usage_so_far(self, choice: Choice, end: int) -> bytes: ...

    def _tail(self, choice: Choice, end: int) -> bytes:
        """What follows `choices` in a chunk."""
        body = self._question.body
        tail = b""
        if body.usage_in_each:
            tail += b',"usage":' + self._usage_so_far(choice, end)
        if end == choice.script.length and not body.includes_usage:
            tail += b',"system_fingerprint":"%b"' % FINGERPRINT.encode()
        return tail

    def _details(self) -> dict[str, int]:
        return {"cached_tokens": self._cached_tokens}

    def _last_usage(self) -> bytes:
        question = self._question
        output = sum(one.script.length for one in question.choices)
        usage = usage_of(sum(question.prompt_lengths), output)
        fields = question.heading.fields(self.kind) | {
            "choices": [],
            "usage": usage | {"prompt_tokens_details": self._details()},
            "system_fingerprint": FINGERPRINT,
        }
        return b"data: " + encode(fields) + b"\n\n"
