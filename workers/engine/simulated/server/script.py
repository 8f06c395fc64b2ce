"""What one choice of one request will say, token by token, and why it ends.

A script is a pure function of the prompt, the seed and the sampling fields. Its length is known
from the start, as the scheduler wants it: where stop strings or forced ids decide it, the tokens
are made at once; else one by one as they are needed.
"""

from __future__ import annotations

import itertools
import json
import random
from array import array
from collections.abc import Iterator, Sequence

import xxhash

from workers.engine.simulated.server.bodies import GenerationBody
from workers.engine.simulated.server.words import Detokenizer, Words
from workers.engine.simulated.tokens import TokenStream

_NATURAL_MIN, _NATURAL_SPAN = 64, 448
_64_BITS = 2**64 - 1
_REPEATED = "repetition_detected"
_NOTHING_LEFT = (0,)
"""What vLLM says where every token is forbidden."""


class Script:
    """The tokens of one choice; `tokens` is the prompt and what has been made so far."""

    def __init__(self, words: Words, prompt: Sequence[int], body: GenerationBody) -> None:
        self.prompt_len = len(prompt)
        self.echoed = bool(body.echo)
        """Whether the prompt is part of what is said."""
        self.tokens = list(prompt)
        self.length = 0
        """Output tokens in all."""
        self.finish_reason = "length"
        self.stop_reason: int | str | None = None
        self.made: list[bytes] = []
        """The text each output token makes visible, ready for a JSON string."""
        self.words = words
        self._body = body
        self._stream: Iterator[int] = iter(())
        self._end_id: int | None = None

    def ensure(self, tokens: int) -> None:
        """Makes the first `tokens` tokens of prompt and output, if they are not there yet."""
        escaped, made, known = self.words.escaped, self.made, self.tokens
        for _ in range(tokens - len(known)):
            if self._end_id is not None and len(made) == self.length - 1:
                token, text = self._end_id, b""
            else:
                token = next(self._stream)
                text = escaped[token]
            known.append(token)
            made.append(text)

    def text(self, first: int, end: int) -> bytes:
        """The text of output tokens `first` to `end`, for a JSON string."""
        self.ensure(self.prompt_len + end)
        made = self.made
        return made[first] if end == first + 1 else b"".join(made[first:end])

    def output(self, first: int, end: int) -> list[int]:
        self.ensure(self.prompt_len + end)
        return self.tokens[self.prompt_len + first : self.prompt_len + end]


def write_script(
    words: Words, prompt: Sequence[int], body: GenerationBody, limit: int, seed: int
) -> Script:
    """The script for `prompt` with at most `limit` output tokens."""
    script = Script(words, prompt, body)
    vocabulary = body.allowed_token_ids or words.vocabulary
    stream = TokenStream(seed, prompt, vocabulary)
    bound = _bound_ids(words, prompt, body, seed)
    script._stream = stream if bound is None else itertools.chain(bound, stream)
    script.length = limit
    if words.end_ids and not body.ignore_eos and not (body.allowed_token_ids and bound is None):
        natural = max(_natural_length(prompt, seed), body.min_tokens + 1)
        natural = natural if bound is None else len(bound) + 1
        if natural <= limit:
            script.length, script.finish_reason = natural, "stop"
            script._end_id = words.end_ids[0]
    asked = (body.stops, body.stop_token_ids, body.allowed_token_ids, body.repetition_detection)
    if any(asked) or bound is not None:
        _Reading(script, words, body).read()
    return script


def _bound_ids(
    words: Words, prompt: Sequence[int], body: GenerationBody, seed: int
) -> list[int] | None:
    """The tokens of what has to be said, where something has; raises `Refusal`."""
    if not body.is_bound:
        return None
    rng = random.Random(
        xxhash.xxh3_64_intdigest(array("I", prompt).tobytes(), seed=seed & _64_BITS)
    )
    text = body.bound_text(rng, words.plain)
    return None if text is None else words.ids_of(text)


def _natural_length(prompt: Sequence[int], seed: int) -> int:
    """When the model would end by itself: the same for the same prompt."""
    digest = xxhash.xxh3_64_intdigest(repr((len(prompt), prompt[-64:])).encode(), seed=seed)
    return _NATURAL_MIN + digest % _NATURAL_SPAN


class _Reading:
    """Makes a script's tokens at once, with vLLM's rules on stop ids and stop strings."""

    def __init__(self, script: Script, words: Words, body: GenerationBody) -> None:
        self._script = script
        self._body = body
        self._stop_ids = frozenset(body.stop_token_ids or ())
        self._vocabulary = body.allowed_token_ids or words.vocabulary
        self._stops = body.stops
        self._keeps_stop = body.include_stop_str_in_output
        self._held = 0
        if self._stops and not self._keeps_stop:
            self._held = max(map(len, self._stops)) - 1
        prompt = script.tokens[: script.prompt_len]
        self._decoder = Detokenizer(words, prompt, body.skip_special_tokens)
        self._text = ""
        self._shown = 0

    def read(self) -> None:
        script = self._script
        ends_early = script._end_id is not None
        for number in range(1, script.length + 1):
            last = number == script.length
            token = script._end_id if last and ends_early else self._next(number)
            assert token is not None
            script.tokens.append(token)
            stopped = self._take(token, number, ended=last and ends_early)
            script.made.append(self._visible(stopped or last))
            if stopped:
                repeated = script.stop_reason is _REPEATED
                script.length = number
                script.finish_reason = "repetition" if repeated else "stop"
                return

    def _next(self, number: int) -> int:
        """The token that is said, none that would stop where nothing may stop yet."""
        token = next(self._script._stream)
        if number > self._body.min_tokens or token not in self._stop_ids:
            return token
        others = [one for one in self._vocabulary if one not in self._stop_ids] or _NOTHING_LEFT
        return others[token % len(others)]

    def _take(self, token: int, number: int, *, ended: bool) -> bool:
        """Adds the token's text; whether generation stops with it."""
        if ended:
            return False
        if token in self._stop_ids and number > self._body.min_tokens:
            self._script.stop_reason = token
            if self._keeps_stop:
                text = self._decoder.text(token)
                self._text += text
                self._cut_at_stop(len(text))
            return True
        before = len(self._text)
        self._text += self._decoder.text(token)
        if number < self._body.min_tokens:
            return False
        if number > self._body.min_tokens and self._cut_at_stop(len(self._text) - before):
            return True
        if number < self._script.length and self._repeats():
            self._script.stop_reason = _REPEATED
            return True
        return False

    def _repeats(self) -> bool:
        asked, script = self._body.repetition_detection, self._script
        return asked is not None and asked.found_at_end(script.tokens[script.prompt_len :])

    def _cut_at_stop(self, new: int) -> bool:
        """Whether a stop string ends in the newest text; cuts the text there."""
        for stop in self._stops:
            start = max(0, len(self._text) - new - len(stop) + 1)
            found = self._text.find(stop, start) if new else -1
            if found < 0:
                continue
            self._script.stop_reason = stop
            self._text = self._text[: found + len(stop) if self._keeps_stop else found]
            return True
        return False

    def _visible(self, finished: bool) -> bytes:
        end = len(self._text) - (0 if finished else self._held)
        if end <= self._shown:
            return b""
        piece, self._shown = self._text[self._shown : end], end
        return json.dumps(piece, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
