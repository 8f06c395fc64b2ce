"""Log probabilities of what is said, in vLLM's shapes: plausible, from the tokens, and no model's.

The token that is said is always the likeliest. Its value and the other candidates are drawn from a
hash of its place and of the tokens around it, so that the same answer has the same values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import xxhash

from workers.engine.simulated.server.script import Script

_FINEST = 4000
_NATS_MAX = 2.5


class Candidate(NamedTuple):
    """A token that could have been said."""

    text: str
    logprob: float


def candidates(script: Script, at: int, count: int) -> list[Candidate]:
    """The output token of that number, and others until there are `count` in all."""
    words = script.words
    token = script.output(at, at + 1)[0]
    before = script.tokens[script.prompt_len + at - 1]
    digest = xxhash.xxh3_64_intdigest(repr((at, before, token)).encode())
    logprob = -_NATS_MAX * (digest % _FINEST) / _FINEST
    found = {words.text_of(token): logprob}
    vocabulary = words.vocabulary
    while len(found) < min(count, len(vocabulary)):
        digest = xxhash.xxh3_64_intdigest(digest.to_bytes(8, "little"))
        logprob -= _NATS_MAX * (digest % _FINEST + 1) / _FINEST
        found.setdefault(words.text_of(vocabulary[digest % len(vocabulary)]), logprob)
    return [Candidate(*one) for one in found.items()]


def completion_logprobs(script: Script, first: int, end: int, count: int) -> dict[str, Any]:
    """What a completion shows of output tokens `first` to `end`."""
    offset = sum(len(script.words.text_of(token)) for token in script.output(0, first))
    shown: dict[str, Any] = {
        "text_offset": [],
        "token_logprobs": [],
        "tokens": [],
        "top_logprobs": [],
    }
    for at in range(first, end):
        found = candidates(script, at, max(1, count))
        shown["text_offset"].append(offset)
        shown["token_logprobs"].append(found[0].logprob)
        shown["tokens"].append(found[0].text)
        shown["top_logprobs"].append(dict(found))
        offset += len(found[0].text)
    return shown


def chat_logprobs(script: Script, first: int, end: int, count: int) -> dict[str, Any]:
    """What a chat shows of output tokens `first` to `end`."""
    content = []
    for at in range(first, end):
        found = [_entry(one) for one in candidates(script, at, max(1, count))]
        content.append(found[0] | {"top_logprobs": found if count else []})
    return {"content": content}


def _entry(candidate: Candidate) -> dict[str, Any]:
    text, logprob = candidate
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
