"""Log probabilities of tokens, in vLLM's shapes: plausible, from the tokens, and no model's.

The token that is said is always the likeliest, a token of the prompt never is. Values and other
candidates are drawn from a hash of the place and of the tokens around it, so that the same answer
has the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import xxhash

from workers.engine.simulated.server.script import Script

_FINEST = 4000
_NATS_MAX = 2.5


class Candidate(NamedTuple):
    """A token that could have been said."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Style:
    """How candidates are shown."""

    count: int
    """How many besides the token itself, where that is not among them."""
    as_ids: bool
    """Whether tokens are named by their ids."""
    listed: tuple[int, ...] = ()
    """Ids that are shown with each token that is said, in place of the likeliest."""

    def of_said(self, script: Script, at: int) -> list[Candidate]:
        """What is shown of the output token at place `at`."""
        if not self.listed:
            return candidates(script, at, max(1, self.count))
        said = candidates(script, at, 1)
        others = [one for one in dict.fromkeys(self.listed) if one != said[0].token]
        return said + [Candidate(one, said[0].logprob - 1) for one in others]

    def name(self, script: Script, token: int) -> str:
        return f"token_id:{token}" if self.as_ids else script.words.text_of(token)


def candidates(script: Script, at: int, count: int) -> list[Candidate]:
    """The token at place `at` of prompt and output, and others until there are `count` in all."""
    script.ensure(at + 1)
    token, before = script.tokens[at], script.tokens[at - 1]
    place = at - script.prompt_len
    digest = xxhash.xxh3_64_intdigest(repr((place, before, token)).encode())
    logprob = -_NATS_MAX * (digest % _FINEST) / _FINEST
    found = {token: logprob}
    vocabulary = script.words.vocabulary
    while len(found) < min(count, len(vocabulary)):
        digest = xxhash.xxh3_64_intdigest(digest.to_bytes(8, "little"))
        logprob -= _NATS_MAX * (digest % _FINEST + 1) / _FINEST
        found.setdefault(vocabulary[digest % len(vocabulary)], logprob)
    return [Candidate(*one) for one in found.items()]


def _unlikely(script: Script, at: int, count: int) -> list[Candidate]:
    """A token of the prompt, and `count` others that were likelier."""
    (token, least), *others = candidates(script, at, count + 1)
    lowest = min([least, *(one.logprob for one in others)])
    return [Candidate(token, lowest - 1), *others]


def prompt_logprobs(script: Script, count: int) -> list[dict[str, Any] | None]:
    """By token of the prompt, all but the first, what could have stood there."""
    shown: list[dict[str, Any] | None] = [None]
    for at in range(1, script.prompt_len):
        found = _unlikely(script, at, count)
        shown.append(
            {
                str(one.token): {
                    "logprob": one.logprob,
                    "rank": rank or len(found),
                    "decoded_token": script.words.text_of(one.token),
                }
                for rank, one in enumerate(found)
            }
        )
    return shown


def completion_logprobs(
    script: Script, first: int, end: int, style: Style, *, echoed: bool = False
) -> dict[str, Any]:
    """What a completion shows of output tokens `first` to `end`, and of an echoed prompt."""
    length = script.prompt_len
    start = 0 if echoed else length + first
    script.ensure(length + end)
    before = range(0 if script.echoed else length, start)
    offset = sum(len(style.name(script, script.tokens[at])) for at in before)
    shown: dict[str, Any] = {
        "text_offset": [],
        "token_logprobs": [],
        "tokens": [],
        "top_logprobs": [],
    }
    for at in range(start, length + end):
        name = style.name(script, script.tokens[at])
        shown["text_offset"].append(offset)
        shown["tokens"].append(name)
        offset += len(name)
        if at == 0:
            shown["token_logprobs"].append(None)
            shown["top_logprobs"].append(None)
            continue
        in_prompt = at < length
        found = _unlikely(script, at, style.count) if in_prompt else style.of_said(script, at)
        shown["token_logprobs"].append(found[0].logprob)
        named = {style.name(script, one.token): one.logprob for one in found}
        shown["top_logprobs"].append(named)
    return shown


def chat_logprobs(script: Script, first: int, end: int, style: Style) -> dict[str, Any]:
    """What a chat shows of output tokens `first` to `end`."""
    content = []
    for at in range(script.prompt_len + first, script.prompt_len + end):
        found = style.of_said(script, at)
        top = [_entry(style.name(script, one.token), one) for one in found]
        text = script.words.text_of(found[0].token)
        said = top[0] | {"bytes": list(text.encode("utf-8", "replace"))}
        content.append(said | {"top_logprobs": top if style.count or style.listed else []})
    return {"content": content}


def _entry(name: str, candidate: Candidate) -> dict[str, Any]:
    encoded = list(name.encode("utf-8", "replace"))
    return {"token": name, "logprob": candidate.logprob, "bytes": encoded}
