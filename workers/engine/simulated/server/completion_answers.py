"""Completions as vLLM 0.32 answers them, whole or in chunks."""

from __future__ import annotations

from typing import Any

from workers.engine.simulated.server.answers import (
    FINGERPRINT,
    Form,
    Question,
    Stream,
    Whole,
    encode,
    escaped,
    quoted,
    tell_refusal,
    usage_of,
)
from workers.engine.simulated.server.likelihoods import completion_logprobs
from workers.engine.simulated.server.rank import Choice


class _WholeCompletion(Whole):
    def _fields(self) -> dict[str, Any]:
        question, choices = self._question, []
        for index, choice in enumerate(question.choices):
            script = choice.script
            text = _shown(question, choice, 0, script.length)
            choices.append(
                {
                    "index": index,
                    "text": quoted(text),
                    "logprobs": _logprobs(question, choice, 0, script.length),
                    "finish_reason": script.finish_reason,
                    "stop_reason": script.stop_reason,
                    "token_ids": self._ids(choice),
                    "prompt_logprobs": question.prompt_logprobs(choice),
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


class _CompletionStream(Stream):
    kind = "text_completion"
    plain_end = (
        b'","logprobs":null,"finish_reason":null,"stop_reason":null,'
        b'"prompt_token_ids":null,"token_ids":null}]}\n\n'
    )

    def _before(self, choice: Choice) -> bytes:
        return b',"choices":[{"index":%d,"text":"' % choice.index

    def _full(self, choice: Choice, first: int, end: int) -> bytes:
        question, script, body = self._question, choice.script, self._question.body
        text = _shown(question, choice, first, end)
        ended = end == script.length
        shows_prompt = not first and (body.return_token_ids or body.echo)
        rest = {
            "logprobs": _logprobs(question, choice, first, end),
            "finish_reason": script.finish_reason if ended else None,
            "stop_reason": script.stop_reason if ended else None,
            "prompt_token_ids": script.tokens[: script.prompt_len] if shows_prompt else None,
            "token_ids": script.output(first, end) if body.return_token_ids else None,
        }
        return text + b'",' + encode(rest)[1:] + b"]" + self._tail(choice, end) + b"}\n\n"

    def _usage_so_far(self, choice: Choice, end: int) -> bytes:
        return encode(usage_of(choice.script.prompt_len, end))


def _shown(question: Question, choice: Choice, first: int, end: int) -> bytes:
    """The text of output tokens `first` to `end`, with an echoed prompt before them."""
    text = choice.script.text(first, end) if question.body.output_wanted else b""
    if first or not question.body.echo:
        return text
    return escaped(question.echoes[choice.prompt_index]) + text


def _logprobs(question: Question, choice: Choice, first: int, end: int) -> dict[str, Any] | None:
    style, body = question.style, question.body
    if style is None:
        return None
    shown = end if body.output_wanted else 0
    echoed = bool(body.echo) and not first
    return completion_logprobs(choice.script, first, shown, style, echoed=echoed)


COMPLETION = Form("cmpl-", _WholeCompletion, _CompletionStream, tell_refusal)
