"""What each worker did in a run, by the engines' own counters.

Routers other than Rhizome do not say which worker answered, so the engines are asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import aiohttp

from loadtest.metrics import Balance, WorkerLoad
from rhizome.errors import TargetUnusable
from router.discovery.exposition import SampleReader

_TIMEOUT_S = 5.0
_FIELDS = {
    "vllm:request_success_total": "requests",
    "vllm:prompt_tokens_total": "prompt_tokens",
    "vllm:prompt_tokens_cached_total": "cached_tokens",
    "vllm:generation_tokens_total": "output_tokens",
}
_TTFT = "vllm:time_to_first_token_seconds"
_reader = SampleReader((*_FIELDS, f"{_TTFT}_sum", f"{_TTFT}_count"))


class Tally(NamedTuple):
    """One worker's counters."""

    counts: dict[str, int]
    """By the names of `WorkerLoad`."""
    ttft_s: float = 0.0
    """Time to the first token as the engine sees it, added up."""
    ttft_count: int = 0


async def tallies(urls: Iterable[str]) -> dict[str, Tally]:
    """The counters of every worker as they stand; raises `TargetUnusable` for a silent one."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        pages = await asyncio.gather(*(_page(session, url) for url in urls))
    return {url: tally_of(page) for url, page in pages}


def tally_of(page: bytes) -> Tally:
    """The counters on a worker's metrics page, all labels added up."""
    counts = dict.fromkeys(_FIELDS.values(), 0)
    ttft_s, ttft_count = 0.0, 0
    for sample in _reader.read(page):
        if sample.name in _FIELDS:
            counts[_FIELDS[sample.name]] += int(sample.value)
        elif sample.name.endswith("_sum"):
            ttft_s += sample.value
        else:
            ttft_count += int(sample.value)
    return Tally(counts, ttft_s, ttft_count)


def balance_between(before: dict[str, Tally], after: dict[str, Tally]) -> Balance:
    """What the workers did between two looks; idle ones count as workers."""
    loads = {
        url: WorkerLoad(
            **{name: now - before[url].counts[name] for name, now in tally.counts.items()}
        )
        for url, tally in after.items()
    }
    computed = [one.prompt_tokens - one.cached_tokens + one.output_tokens for one in loads.values()]
    return Balance(
        workers=loads,
        requests_max_over_mean=_max_over_mean([one.requests for one in loads.values()]),
        tokens_max_over_mean=_max_over_mean(computed),
    )


def engine_ttft_ms(before: dict[str, Tally], after: dict[str, Tally]) -> float | None:
    """Mean time from a request's arrival at its engine to its first token; None without any."""
    count = sum(after[url].ttft_count - before[url].ttft_count for url in after)
    total_s = sum(after[url].ttft_s - before[url].ttft_s for url in after)
    return total_s * 1000.0 / count if count else None


async def _page(session: aiohttp.ClientSession, url: str) -> tuple[str, bytes]:
    try:
        async with session.get(f"{url}/metrics") as response:
            return url, await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise TargetUnusable(f"the worker {url} does not tell what it did: {error}") from error


def _max_over_mean(numbers: Sequence[int]) -> float:
    total = sum(numbers)
    return max(numbers) * len(numbers) / total if total else 1.0
