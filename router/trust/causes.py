"""What can be wrong between what a router predicts and what an engine does, in words for people."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """How far a target's events are believed; fit for a metric label."""

    EXACT = "exact"
    """What the index says of it is what its engine does."""
    DEGRADED = "degraded"
    """Not proven yet, or partly wrong: credit is scaled by the reuse that was measured."""
    FALLBACK = "fallback"
    """No credit from events: what was sent there lately counts, scaled by measured reuse."""


class Cause(StrEnum):
    """Why a target is not EXACT; fit for a metric label."""

    NONE = "none"
    UNPROVEN = "unproven"
    NO_EVENTS = "no_events"
    PREFIX_CACHING_OFF = "prefix_caching_off"
    BLOCK_SIZE = "block_size"
    EVENT_FORMAT = "event_format"
    EVENTS_LOST = "events_lost"
    EVENTS_MISSING = "events_missing"
    DEAD_BLOCKS = "dead_blocks"
    BLOCK_HASHES = "block_hashes"
    LORA = "lora"
    CACHE_SALT = "cache_salt"
    MEDIA = "media"
    TRUNCATION = "truncation"
    SEVERAL_ANSWERS = "several_answers"
    SPECIAL_TOKENS = "special_tokens"
    TOOLS = "tools"
    CHAT_TEMPLATE = "chat_template"
    TOKENIZER = "tokenizer"
    PROMPT = "prompt"
    """The engine's tokens differ from ours; `likely_cause` says in which way."""


MEANING: dict[Cause, str] = {
    Cause.NONE: "predictions agree with what the engine reports",
    Cause.UNPROVEN: "nothing of it has been checked yet",
    Cause.NO_EVENTS: "it publishes no KV events; start its engine with them",
    Cause.PREFIX_CACHING_OFF: "its prefix caching is off; it is routed by load alone",
    Cause.BLOCK_SIZE: "its blocks have another size than it registered; correct `block_size`",
    Cause.EVENT_FORMAT: "its events cannot be read; its engine's version may be too new",
    Cause.EVENTS_LOST: "events get lost on their way; look at the network and at the relay",
    Cause.EVENTS_MISSING: "it holds blocks that it did not announce, or it announced them before "
    "this router could listen",
    Cause.DEAD_BLOCKS: "it does not hold blocks that it announced and never removed; its cache "
    "may have been cleared without a word",
    Cause.BLOCK_HASHES: "it names the same block in two ways; its hash seed changed, or an "
    "adapter's name was given to another adapter",
    Cause.LORA: "it answers with a LoRA adapter that the request does not name",
    Cause.CACHE_SALT: "something behind this router adds or drops a cache salt",
    Cause.MEDIA: "its prompts hold images or other media that the request does not show",
    Cause.TRUNCATION: "it cuts prompts shorter than the request asks",
    Cause.SEVERAL_ANSWERS: "it counts the prompt of requests with n > 1 differently",
    Cause.SPECIAL_TOKENS: "its prompts have more or fewer special tokens (BOS, EOS); compare its "
    "tokenizer with the router's",
    Cause.TOOLS: "it renders tools differently; compare chat templates and the order of schemas",
    Cause.CHAT_TEMPLATE: "its chat template is another one; compare `chat_template.jinja`",
    Cause.TOKENIZER: "its tokenizer is another one; compare `tokenizer.json`",
    Cause.PROMPT: "it sees other tokens than this router renders",
}
"""What a cause means, and what to look at."""

OF_PROMPTS = frozenset(
    {
        Cause.TRUNCATION,
        Cause.SPECIAL_TOKENS,
        Cause.TOOLS,
        Cause.CHAT_TEMPLATE,
        Cause.TOKENIZER,
        Cause.PROMPT,
    }
)
"""Causes by which the router's count of a prompt's tokens is wrong too."""
