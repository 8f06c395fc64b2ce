"""From answered requests to the table of hot prefixes, and from the table to a worker's warm-up."""

from __future__ import annotations

from collections.abc import Sequence

from rhizome.fleet.records import WorkerRecord
from rhizome.settings.tree import PrefixSettings, WarmupSettings
from router.call import Call
from router.http.bodies import CompletionBody
from router.prompt import RenderedPrompt
from router.warmup.hot import HotPrefixes, Origin, Replay

_BLOCK_SIZE_UNKNOWN = 16


class PrefixNotes:
    """What this router would replay. Only prompts that a worker has answered are noted, so one
    that kills engines is not."""

    def __init__(self, warmup: WarmupSettings, prefix: PrefixSettings) -> None:
        self._settings = warmup
        self._block_bytes = prefix.approximate_block_bytes
        self.hot = HotPrefixes(warmup.bytes_max, warmup.runs_max, warmup.half_life_s)

    def answered(self, call: Call, now_s: float) -> None:
        """The call was answered whole.

        Text is noted of completions only: what a chat becomes where its template is not known
        cannot be sent as a prompt.
        """
        assignment = call.assignment
        if not self._settings.enabled or assignment is None:
            return
        prompt = assignment.job.prompt
        if not isinstance(prompt, RenderedPrompt):
            return
        if not prompt.has_tokens and not isinstance(call.body, CompletionBody):
            return
        size = assignment.target.record.block_size
        origin = Origin(
            model=assignment.job.model,  # an adapter's prefixes are replayed to nobody
            salt=call.body.cache_salt,
            block_tokens=prompt.block_tokens(size),
            block_bytes=0 if prompt.has_tokens else self._block_bytes,
        )
        self.hot.note(origin, prompt.hashes(size), prompt.units, now_s)

    def chosen(self, record: WorkerRecord, now_s: float) -> Sequence[Replay]:
        """What to replay to the worker, hottest first; nothing if nothing is hot enough."""
        return chosen(self.hot, record, self._settings, now_s)


def chosen(
    hot: HotPrefixes, record: WorkerRecord, settings: WarmupSettings, now_s: float
) -> Sequence[Replay]:
    """The same from a given table."""
    tokens_max = settings.tokens_max
    if record.kv_blocks is not None:
        held = record.kv_blocks * (record.block_size or _BLOCK_SIZE_UNKNOWN)
        tokens_max = min(tokens_max, int(held * settings.kv_share))
    replays = hot.choose(record.model, tokens_max, settings.prefixes_max, settings.hits_min, now_s)
    longest = record.max_model_len
    return [one for one in replays if longest is None or one.tokens < longest]
