"""Answers in vLLM's shapes: whole ones and streams, of completions and of chats.

Field order and presence are those of vLLM 0.32's models (`exclude_unset` in chunks, everything in
whole answers). Chunks are put together from bytes made once per request: all that is new for a
token is its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from workers.engine.simulated.server.bodies import ChatBody, GenerationBody
from workers.engine.simulated.server.http import Exchange
from workers.engine.simulated.server.likelihoods import chat_logprobs, completion_logprobs
from workers.engine.simulated.server.rank import Choice

FINGERPRINT = "vllm-0.32.0-51d051d0"
DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode


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
    block_size: int
    limit: int
    """The most output tokens of a choice."""

    def logprobs(self, choice: Choice, first: int, end: int) -> dict[str, Any] | None:
        """Of output tokens `first` to `end`, where they were asked for."""
        count = self.body.logprobs_asked
        if count is None:
            return None
        show = chat_logprobs if isinstance(self.body, ChatBody) else completion_logprobs
        return show(choice.script, first, end, count)

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


def answer(question: Question, form: Form) -> None:
    """Lets the question's choices deliver into its answer."""
    if question.body.stream:
        question.exchange.begin_stream()
        answering = form.stream(question)
    else:
        answering = form.whole(question)
    for choice in question.choices:
        choice.deliver = answering.deliver


def _usage(prompt: int, output: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + output, "completion_tokens": output}


def created_tokens(choice: Choice, block_size: int) -> int:
    """Prompt tokens that the request newly put into the cache."""
    full = choice.script.prompt_len // block_size * block_size
    return max(0, full - choice.cached_tokens)


def quoted(text: bytes) -> msgspec.Raw:
    """Text that is escaped already, as a JSON string."""
    return msgspec.Raw(b'"' + text + b'"')


def _escaped(text: str) -> bytes:
    return _encode(text)[1:-1]


class _Whole:
    """An answer in one piece, sent with the last token."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._open = len(question.choices)

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        if end < choice.script.length:
            return
        self._open -= 1
        if not self._open:
            chat = isinstance(self._question.body, ChatBody)
            fields = self._chat() if chat else self._completion()
            self._question.exchange.reply(200, _encode(fields))

    def _usage(self, created: int | None) -> dict[str, Any]:
        question = self._question
        output = sum(one.script.length for one in question.choices)
        usage = _usage(sum(question.prompt_lengths), output)
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

    def _completion(self) -> dict[str, Any]:
        question, choices = self._question, []
        for index, choice in enumerate(question.choices):
            script = choice.script
            text = script.text(0, script.length)
            if question.body.echo:
                text = _escaped(question.echoes[choice.prompt_index]) + text
            choices.append(
                {
                    "index": index,
                    "text": quoted(text),
                    "logprobs": question.logprobs(choice, 0, script.length),
                    "finish_reason": script.finish_reason,
                    "stop_reason": script.stop_reason,
                    "token_ids": self._ids(choice),
                    "prompt_logprobs": None,
                    "prompt_token_ids": self._prompt_ids(choice),
                    "routed_experts": None,
                }
            )
        return question.heading.fields("text_completion") | {
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": self._usage(None),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _chat(self) -> dict[str, Any]:
        question = self._question
        last = question.choices[-1]
        choices = [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": quoted(choice.script.text(0, choice.script.length)),
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": question.logprobs(choice, 0, choice.script.length),
                "finish_reason": choice.script.finish_reason,
                "stop_reason": choice.script.stop_reason,
                "token_ids": self._ids(choice),
                "routed_experts": None,
            }
            for choice in question.choices
        ]
        return question.heading.fields("chat.completion") | {
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": self._usage(created_tokens(last, question.block_size)),
            "prompt_logprobs": None,
            "prompt_token_ids": self._prompt_ids(last),
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }


class _Stream:
    """A stream of chunks; subclasses know the shapes."""

    kind = ""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._open = len(question.choices)
        self._started = False
        self._cached_tokens = 0
        body = question.body
        extras = (body.return_token_ids, body.usage_in_each, body.echo)
        self._plain = body.logprobs_asked is None and not any(extras)
        """Whether all chunks but the first and the last of a choice are alike."""
        head = _encode(question.heading.fields(self.kind))[:-1]
        self._heads = [b"data: " + head + self._before(one) for one in question.choices]

    def deliver(self, choice: Choice, first: int, end: int) -> None:
        script = choice.script
        exchange = self._question.exchange
        if not self._started:
            self._started = True
            self._cached_tokens = choice.cached_tokens
            self._begin(choice)
        if self._plain and end < script.length:
            text = script.text(first, end)
            exchange.send(self._heads[choice.index] + text + self.plain_end)
            return
        data = self._heads[choice.index] + self._full(choice, first, end)
        if end < script.length:
            exchange.send(data)
            return
        self._open -= 1
        if self._open:
            exchange.send(data)
            return
        exchange.send(data)
        if self._question.body.includes_usage:
            exchange.send(self._last_usage())
        exchange.end(DONE)

    plain_end = b""

    def _before(self, choice: Choice) -> bytes:
        """A chunk from the heading's end to the text."""
        raise NotImplementedError

    def _begin(self, choice: Choice) -> None:
        """What comes before the first token."""

    def _full(self, choice: Choice, first: int, end: int) -> bytes:
        """A chunk from the text on."""
        raise NotImplementedError

    def _usage_so_far(self, choice: Choice, end: int) -> bytes:
        raise NotImplementedError

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
        usage = _usage(sum(question.prompt_lengths), output)
        fields = question.heading.fields(self.kind) | {
            "choices": [],
            "usage": usage | {"prompt_tokens_details": self._details()},
            "system_fingerprint": FINGERPRINT,
        }
        return b"data: " + _encode(fields) + b"\n\n"


class _CompletionStream(_Stream):
    kind = "text_completion"
    plain_end = (
        b'","logprobs":null,"finish_reason":null,"stop_reason":null,'
        b'"prompt_token_ids":null,"token_ids":null}]}\n\n'
    )

    def _before(self, choice: Choice) -> bytes:
        return b',"choices":[{"index":%d,"text":"' % choice.index

    def _full(self, choice: Choice, first: int, end: int) -> bytes:
        question, script, body = self._question, choice.script, self._question.body
        text = script.text(first, end)
        if body.echo and not first:
            text = _escaped(question.echoes[choice.prompt_index]) + text
        ended = end == script.length
        shows_prompt = not first and (body.return_token_ids or body.echo)
        rest = {
            "logprobs": question.logprobs(choice, first, end),
            "finish_reason": script.finish_reason if ended else None,
            "stop_reason": script.stop_reason if ended else None,
            "prompt_token_ids": script.tokens[: script.prompt_len] if shows_prompt else None,
            "token_ids": script.output(first, end) if body.return_token_ids else None,
        }
        return text + b'",' + _encode(rest)[1:] + b"]" + self._tail(choice, end) + b"}\n\n"

    def _usage_so_far(self, choice: Choice, end: int) -> bytes:
        return _encode(_usage(choice.script.prompt_len, end))


class _ChatStream(_Stream):
    kind = "chat.completion.chunk"
    plain_end = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'

    def _before(self, choice: Choice) -> bytes:
        return b',"choices":[{"index":%d,"delta":{"content":"' % choice.index

    def _begin(self, choice: Choice) -> None:
        """One chunk with the role for each choice."""
        question, script = self._question, choice.script
        prompt = script.tokens[: script.prompt_len] if question.body.return_token_ids else None
        for each in question.choices:
            fields = question.heading.fields(self.kind)
            fields["choices"] = [
                {
                    "index": each.index,
                    "delta": {"role": "assistant", "content": ""},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ]
            if question.body.usage_in_each:
                fields["usage"] = self._with_details(_usage(script.prompt_len, 0))
            fields |= {"prompt_token_ids": prompt, "prompt_text": None}
            question.exchange.send(b"data: " + _encode(fields) + b"\n\n")

    def _full(self, choice: Choice, first: int, end: int) -> bytes:
        script, body = choice.script, self._question.body
        logprobs = self._question.logprobs(choice, first, end)
        rest: dict[str, Any] = {"logprobs": logprobs, "finish_reason": None}
        if end == script.length:
            rest |= {"finish_reason": script.finish_reason, "stop_reason": script.stop_reason}
        rest["token_ids"] = script.output(first, end) if body.return_token_ids else None
        text = script.text(first, end)
        return text + b'"},' + _encode(rest)[1:] + b"]" + self._tail(choice, end) + b"}\n\n"

    def _usage_so_far(self, choice: Choice, end: int) -> bytes:
        return _encode(self._with_details(_usage(choice.script.prompt_len, end)))

    def _with_details(self, usage: dict[str, Any]) -> dict[str, Any]:
        return usage | {"completion_tokens_details": None}

    def _details(self) -> dict[str, int]:
        question = self._question
        created = created_tokens(question.choices[0], question.block_size)
        return {"cached_tokens": self._cached_tokens, "created_cache_tokens": created}


COMPLETION = Form("cmpl", _Whole, _CompletionStream)
CHAT = Form("chatcmpl", _Whole, _ChatStream)
