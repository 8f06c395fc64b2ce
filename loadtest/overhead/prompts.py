"""Bodies of requests: short prompts, long conversations that go on, and prompts never seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import msgspec

from loadtest.overhead.mock import MODEL

_SYLLABLES = (
    *("ka", "lo", "mi", "ter", "an", "sed", "ri", "on", "ve", "pla", "tu", "ing", "est", "ar"),
    *("co", "den", "fi", "gra", "hol", "ment"),
)
CONVERSATIONS = 64
TURN_BYTES = 1000
TURNS = 7
LAST_BYTES = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """What the requests of a row are like."""

    name: str
    prompt_bytes: int
    """About, all messages together."""
    is_seen: bool = False
    """Whether all messages but the last were sent before."""
    tokens: int = 0
    """Tokens of each stream; 0: not streamed."""
    pace_ms: int = 5


def bodies(shape: Shape, seed: int) -> Iterator[bytes]:
    """Endlessly many bodies, no two alike."""
    rng = Random(seed)
    shared = [_conversation(Random(number)) for number in range(CONVERSATIONS)]
    number = 0
    while True:
        earlier = shared[number % CONVERSATIONS] if shape.is_seen else []
        size = LAST_BYTES if shape.is_seen else shape.prompt_bytes
        last = {"role": "user", "content": f"{seed}.{number} " + words(rng, size)}
        fields = {"model": MODEL, "messages": [*earlier, last], "max_tokens": shape.tokens or 16}
        if shape.tokens:
            fields |= {"stream": True, "pace_ms": shape.pace_ms}
        yield msgspec.json.encode(fields)
        number += 1


def words(rng: Random, size: int) -> str:
    """About so many bytes of words that no tokenizer knows by heart."""
    drawn: list[str] = []
    length = 0
    while length < size:
        word = "".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3)))
        drawn.append(word)
        length += len(word) + 1
    return " ".join(drawn)


def _conversation(rng: Random) -> list[dict[str, str]]:
    """Messages of 7 kB, which a request of 8 kB goes on with."""
    roles = ("user", "assistant")
    system = {"role": "system", "content": words(rng, TURN_BYTES // 2)}
    turns = [
        {"role": roles[turn % 2], "content": words(rng, TURN_BYTES)} for turn in range(TURNS - 1)
    ]
    return [system, *turns]
