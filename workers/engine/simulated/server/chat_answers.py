"""Chats as vLLM 0.32 answers them, whole or in chunks."""

from __future__ import annotations

from typing import Any

from workers.engine.simulated.server.answers import (
    FINGERPRINT,
    Form,
    Question,
    Stream,
    Whole,
    created_tokens,
    encode,
    escaped,
    plain,
    quoted,
    tell_refusal,
    usage_of,
)
from workers.engine.simulated.server.bodies import ChatBody
from workers.engine.simulated.server.likelihoods import chat_logprobs
from workers.engine.simulated.server.rank import Choice
from workers.engine.simulated.server.tool_calls import CallReader, whole_call


class _WholeChat(Whole):
    def _fields(self) -> dict[str, Any]:
        question = self._question
        last = question.choices[-1]
        return question.heading.fields("chat.completion") | {
            "choices": [self._choice(choice) for choice in question.choices],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": self._usage(created_tokens(last, question.block_size)),
            "prompt_logprobs": question.prompt_logprobs(last),
            "prompt_token_ids": self._prompt_ids(last),
            "prompt_text": question.prompt_text,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        script, body = choice.script, _chat(self._question)
        text = script.text(0, script.length)
        calls: list[dict[str, Any]] = []
        if body.must_call:
            said, calls = whole_call(plain(text))
            text = escaped(said)
        return {
            "index": choice.index,
            "message": {
                "role": body.role,
                "content": quoted(escaped(body.echoed_text) + text),
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                **({"tool_calls": calls} if calls else {}),
                "reasoning": None,
            },
            "logprobs": _logprobs(self._question, choice, 0, script.length),
            "finish_reason": _finish(self._question, choice, called=body.must_call),
            "stop_reason": script.stop_reason,
            "token_ids": self._ids(choice),
            "routed_experts": None,
        }


class _ChatStream(Stream):
    kind = "chat.completion.chunk"
    plain_end = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'

    def __init__(self, question: Question) -> None:
        super().__init__(question)
        forced = _chat(question).must_call
        self._readers = [CallReader() for _ in question.choices] if forced else []
        if question.tool_parser:
            self._heads = [head.removesuffix(b'{"content":"') for head in self._heads]

    def _before(self, choice: Choice) -> bytes:
        return b',"choices":[{"index":%d,"delta":{"content":"' % choice.index

    def _begin(self, choice: Choice) -> None:
        """One chunk with the role for each choice, and one with what is echoed."""
        super()._begin(choice)
        question, body, script = self._question, _chat(self._question), choice.script
        prompt = script.tokens[: script.prompt_len] if body.return_token_ids else None
        more = {"prompt_token_ids": prompt, "prompt_text": question.prompt_text}
        for each in question.choices:
            self._send(each, {"role": body.role, "content": ""}, more)
        if body.echoed_text:
            for each in question.choices:
                self._send(each, {"content": body.echoed_text}, {})

    def _send(self, choice: Choice, delta: dict[str, Any], more: dict[str, Any]) -> None:
        """A chunk without tokens."""
        question = self._question
        fields = question.heading.fields(self.kind)
        shown = {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}
        fields["choices"] = [shown]
        if question.body.usage_in_each:
            fields["usage"] = self._with_details(usage_of(choice.script.prompt_len, 0))
        question.exchange.send(b"data: " + encode(fields | more) + b"\n\n")

    def _full(self, choice: Choice, first: int, end: int) -> bytes | None:
        script, body = choice.script, self._question.body
        ended = end == script.length
        logprobs = _logprobs(self._question, choice, first, end)
        text = script.text(first, end)
        start = text + b'"}'
        if self._question.tool_parser:
            delta = self._delta(choice, text)
            if delta is None and not (ended or logprobs or body.return_token_ids):
                return None
            start = encode(delta or {})
        rest: dict[str, Any] = {"logprobs": logprobs, "finish_reason": None}
        if ended:
            called = bool(self._readers) and self._readers[choice.index].called
            finish = _finish(self._question, choice, called=called)
            rest |= {"finish_reason": finish, "stop_reason": script.stop_reason}
        rest["token_ids"] = script.output(first, end) if body.return_token_ids else None
        return start + b"," + encode(rest)[1:] + b"]" + self._tail(choice, end) + b"}\n\n"

    def _delta(self, choice: Choice, text: bytes) -> dict[str, Any] | None:
        """What a parser makes of new text."""
        if self._readers:
            return self._readers[choice.index].feed(plain(text))
        if not text:
            return None
        thoughts = {} if _chat(self._question).include_reasoning else {"reasoning": None}
        return {"content": quoted(text)} | thoughts

    def _usage_so_far(self, choice: Choice, end: int) -> bytes:
        return encode(self._with_details(usage_of(choice.script.prompt_len, end)))

    def _with_details(self, usage: dict[str, Any]) -> dict[str, Any]:
        return usage | {"completion_tokens_details": None}

    def _details(self) -> dict[str, int]:
        question = self._question
        created = created_tokens(question.choices[0], question.block_size)
        return {"cached_tokens": self._cached_tokens, "created_cache_tokens": created}


def _chat(question: Question) -> ChatBody:
    assert isinstance(question.body, ChatBody)
    return question.body


def _logprobs(question: Question, choice: Choice, first: int, end: int) -> dict[str, Any] | None:
    style = question.style
    return None if style is None else chat_logprobs(choice.script, first, end, style)


def _finish(question: Question, choice: Choice, *, called: bool) -> str:
    """Why a choice ended: a call that nobody named ends it in a way of its own."""
    finish = choice.script.finish_reason
    named = isinstance(_chat(question).tool_choice, dict)
    return "tool_calls" if called and not named and finish == "stop" else finish


CHAT = Form("chatcmpl-", _WholeChat, _ChatStream, tell_refusal)
