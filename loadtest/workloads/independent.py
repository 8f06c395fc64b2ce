"""Single requests with at most a shared prefix: the controls, and Zipf-shared prefixes.

`no-sharing` shares nothing, so whatever a router does for prefixes can only cost. `one-prefix`
puts the same long prefix before every request: following the cache blindly sends all to one
worker. `decode-heavy` asks for long answers to short prompts: prefill, and so the cache, hardly
matter. `zipf-prefixes` has a few hundred prefixes, the popular ones far more often.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta

from loadtest.workloads.arrivals import Arrivals
from loadtest.workloads.draws import Zipf, length_about
from loadtest.workloads.requests import Api, Role, Segment, TracedRequest, key_of
from loadtest.workloads.sessions import Tokens


class IndependentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prefixes have exactly their length; the rest and the answer are log-normal."""

    prefixes: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """How many different prefixes there are; 0 for none."""
    prefix_tokens: Tokens = 2000
    zipf: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.0
    """Exponent of the prefixes' popularity; 0 makes all alike."""
    unique_tokens: Tokens = 200
    output_tokens: Tokens = 150


PRESETS: Mapping[str, IndependentSettings] = MappingProxyType(
    {
        "no-sharing": IndependentSettings(unique_tokens=1200),
        "one-prefix": IndependentSettings(prefixes=1, prefix_tokens=4000),
        "decode-heavy": IndependentSettings(unique_tokens=60, output_tokens=600),
        "zipf-prefixes": IndependentSettings(prefixes=300, prefix_tokens=2000, zipf=1.0),
    }
)


class Independent:
    """The workloads of this module, by name."""

    api = Api.CHAT

    def __init__(self, name: str, settings: IndependentSettings, arrivals: Arrivals) -> None:
        self.name = name
        self.settings = settings
        self._arrivals = arrivals
        self._prefixes = Zipf(settings.prefixes, settings.zipf) if settings.prefixes else None

    def requests(self, seed: int) -> Iterator[TracedRequest]:
        settings = self.settings
        rng = Random(key_of(seed, self.name))
        times_s = self._arrivals.times(Random(key_of(seed, self.name, "starts")))
        for place, at_s in enumerate(times_s):
            segments = [
                Segment(
                    key_of(seed, self.name, "unique", place),
                    length_about(rng, settings.unique_tokens),
                )
            ]
            if self._prefixes is not None:
                key = key_of(seed, self.name, "prefix", self._prefixes.draw(rng))
                segments.insert(0, Segment(key, settings.prefix_tokens, Role.SYSTEM))
            yield TracedRequest(
                place,
                at_s,
                f"request-{place}",
                "",
                tuple(segments),
                length_about(rng, settings.output_tokens),
                key_of(seed, self.name, "answer", place),
            )
