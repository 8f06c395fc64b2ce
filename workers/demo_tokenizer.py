"""The tokenizer of the demonstration models: byte-level BPE trained on seeded sentences.

The corpus is made from a word list in this package, so that every machine trains the same
tokenizer without a download. The chat template is chatml (system, user, assistant, tool).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from random import Random
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
BOS_ID, EOS_ID, PAD_ID, TURN_START_ID, TURN_END_ID = range(5)

_SENTENCES = 30_000
_ASIDES = (
    'def add(a: int, b: int) -> int:\n    return a + b\n\n\nif __name__ == "__main__":\n',
    '{"name": "weather", "arguments": {"city": "Paris", "days": 3, "metric": true}}\n',
    "| name | value |\n| --- | --- |\n| one | 1.5 |\n\n1. First\n2. Second\n- [x] Done\n\n",
    "See https://example.com/docs?page=2#part for more (e.g. section 4.2), it's 100% true!\n",
    "Voilà, naïve façade: Grüße aus Köln, ¿qué tal?, 東京へようこそ, Привет мир, 안녕 🌍🚀\n",
    "system\nYou are a helpful assistant.\nuser\nassistant\ntool\nWhat is the answer?\n",
)


def train_tokenizer() -> Tokenizer:
    """The tokenizer, the same on every machine (about two seconds)."""
    tokenizer = Tokenizer(models.BPE())
    setattr(tokenizer, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))  # noqa: B010 - typed read-only
    setattr(tokenizer, "decoder", decoders.ByteLevel())  # noqa: B010 - typed read-only
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer=trainer)
    return tokenizer


def tokenizer_config(max_model_len: int) -> dict[str, Any]:
    """The contents of `tokenizer_config.json`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "pad_token": SPECIAL_TOKENS[PAD_ID],
        "additional_special_tokens": [SPECIAL_TOKENS[TURN_START_ID], SPECIAL_TOKENS[TURN_END_ID]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_model_len,
    }


def chat_template() -> str:
    """The contents of `chat_template.jinja`."""
    return _data("chat_template.jinja")


def wordlike_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that read as a word or a comma, in order: what a random model may babble."""
    ids = []
    for text, token_id in tokenizer.get_vocab().items():
        word = text.removeprefix("Ġ")
        if text in {",", "."} or (word != text and len(word) > 2 and word.isascii()):
            ids.append(token_id)
    return sorted(ids)


def _corpus() -> Iterator[str]:
    rng = Random(20_260)
    words = _data("words.txt").split()
    weights = [1.0 / (rank + 12) for rank in range(len(words))]
    total = 0.0
    cumulative = [total := total + weight for weight in weights]
    yield from words
    for number in range(_SENTENCES):
        chosen = rng.choices(words, cum_weights=cumulative, k=rng.randint(4, 14))
        chosen[0] = chosen[0].capitalize()
        if number % 3 == 0:
            chosen.insert(rng.randrange(1, len(chosen)), str(rng.randint(0, 2_000)))
        if number % 4 == 0:
            middle = len(chosen) // 2
            chosen[middle] += ","
        yield " ".join(chosen) + rng.choice((".", ".", ".", "?", "!", ":", ";")) + "\n"
        if number % 100 == 0:
            yield _ASIDES[number // 100 % len(_ASIDES)]


def _data(name: str) -> str:
    return resources.files("workers").joinpath("data", name).read_text(encoding="utf-8")


def as_json(fields: dict[str, Any]) -> str:
    """The text of a JSON file, stable from run to run."""
    return json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
