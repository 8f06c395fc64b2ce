"""The model's tokenizer, set up as transformers 5 sets it up for vLLM.

The `tokenizers` library does the work; what is here is the part of transformers that changes the
outcome: special tokens named only in the configuration become unsplittable, and classic Llama
tokenizers are rebuilt with a Metaspace pre-tokenizer. Other classes that transformers rebuilds
(Qwen2, Gemma, GPT-2) come out as their own `tokenizer.json` says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import tokenizers

from rhizome.errors import ModelUnusable
from rhizome.render.files import ModelFiles
from rhizome.render.models import TAKEN_AS_THEY_ARE
from rhizome.render.outcomes import CannotRender, Why
from rhizome.render.remembering import RememberedParts, TokenPart, borders_of, joined_ids
from rhizome.render.words import words_of

_NAMED = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


_WORDS_CHARS_MAX = 16 * 1024
"""Longest text whose words are looked up: the library needs more time, but lets other threads run
meanwhile."""


_NOT_OF_THE_LIBRARY = (KeyboardInterrupt, SystemExit, GeneratorExit)


class TokenizerFault(Exception):
    """The tokenizer library failed."""


class ModelTokenizer:
    """Text to ids and back; thread-safe."""

    def __init__(self, files: ModelFiles) -> None:
        config = files.tokenizer_config
        try:
            with library_faults():
                self._tokenizer = tokenizers.Tokenizer.from_str(_definition(files))
                self._tokenizer.no_truncation()
                self._tokenizer.no_padding()
                self.special_tokens = self._add_tokens(files)
                self._tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
                self._specials = self._tokenizer.num_special_tokens_to_add(False)
                borders = borders_of(self._tokenizer)
                self._words = words_of(self._tokenizer, borders, self._ids)
                self._remembered = RememberedParts(borders, self._part)
        except TokenizerFault as error:
            raise ModelUnusable(
                f"{files.directory}/tokenizer.json cannot be used: {error}",
                advice="save the tokenizer again, or check the download",
            ) from error

    @property
    def library(self) -> tokenizers.Tokenizer:
        """The library's own object, for what is read from it beyond encoding; not to be changed."""
        return self._tokenizer

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """The ids of the whole text; raises `CannotRender`."""
        try:
            if not add_special_tokens:
                return joined_ids(self._remembered.encode(text)).tolist()
            with library_faults():
                return self._encode(text, add_special_tokens=True)
        except TokenizerFault as error:
            raise CannotRender(Why.TOKENIZER_FAILED, str(error)) from error

    def parts(self, text: str, new_chars_max: int | None = None) -> list[TokenPart] | None:
        """As `encode` without special tokens, in the parts that are remembered.

        None where more characters than `new_chars_max` are new.
        """
        try:
            if new_chars_max is None:
                return self._remembered.encode(text)
            return self._remembered.encode_if_quick(text, new_chars_max)
        except TokenizerFault as error:
            raise CannotRender(Why.TOKENIZER_FAILED, str(error)) from error

    def _part(self, text: str) -> TokenPart:
        with library_faults():
            part = None
            if self._words is not None and len(text) <= _WORDS_CHARS_MAX:
                part = self._words.part(text)
            return part or TokenPart(self._ids(text))

    def _ids(self, text: str) -> list[int]:
        return self._encode(text, add_special_tokens=False)

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        encodings = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encodings[0].ids

    def encode_end(self, text: str, add_special_tokens: bool, tokens_max: int) -> list[int]:
        """The last ids, special tokens kept, `tokens_max` in all; raises `CannotRender`."""
        try:
            with library_faults():
                encoding = self._tokenizer.encode(text, add_special_tokens=False)
                specials = self._specials if add_special_tokens else 0
                encoding.truncate(max(0, tokens_max - specials), direction="left")
                ended = self._tokenizer.post_process(encoding, None, add_special_tokens)
                return ended.ids
        except TokenizerFault as error:
            raise CannotRender(Why.TOKENIZER_FAILED, str(error)) from error

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text, special tokens included; raises `CannotRender`."""
        try:
            with library_faults():
                return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)
        except TokenizerFault as error:
            raise CannotRender(Why.TOKENIZER_FAILED, str(error)) from error

    def _add_tokens(self, files: ModelFiles) -> dict[str, str]:
        """Adds what the configuration names and `tokenizer.json` lacks; the named tokens."""
        settings = _settings(files)
        listed = _listed_tokens(settings, files.added_tokens)
        self._tokenizer.add_tokens(listed)  # those with other flags take the new ones
        present = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        named = _named_tokens(settings)
        if _is_rebuilt(files):
            named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | named
        extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
        for token in (*named.values(), *(extra if isinstance(extra, list) else ())):
            content = _content(token)
            if content is not None and content not in present:
                self._tokenizer.add_tokens([_added(token, content)])
        contents = {name: _content(token) for name, token in named.items()}
        return {name: content for name, content in contents.items() if content is not None}


def _settings(files: ModelFiles) -> dict[str, Any]:
    """The configuration; `special_tokens_map.json` counts where it lists no added tokens."""
    if "added_tokens_decoder" in files.tokenizer_config:
        return files.tokenizer_config
    return {**files.tokenizer_config, **files.special_tokens_map}


def _listed_tokens(
    settings: dict[str, Any], added_tokens: dict[str, Any]
) -> list[tokenizers.AddedToken]:
    """The tokens that the configuration lists with their ids, in the order of the ids."""
    listed = settings.get("added_tokens_decoder") or {}
    if listed:
        ordered = sorted(listed.items(), key=lambda item: int(item[0]))
        return [_added(token, token["content"]) for _, token in ordered]
    specials = {_content(token) for token in _named_tokens(settings).values()}
    return [
        tokenizers.AddedToken(content, special=content in specials)
        for content, _ in sorted(added_tokens.items(), key=lambda item: int(item[1]))
    ]


def _named_tokens(settings: dict[str, Any]) -> dict[str, Any]:
    """`bos_token` and its kind, and the model's own `*_token` names."""
    own = [name for name in settings if name.endswith("_token") and name not in _NAMED]
    named = {name: settings[name] for name in (*_NAMED, *own) if name in settings}
    extra = settings.get("extra_special_tokens")
    if isinstance(extra, dict):
        named |= extra
    return {name: token for name, token in named.items() if _content(token) is not None}


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _added(token: Any, content: str) -> tokenizers.AddedToken:
    if not isinstance(token, dict):
        return tokenizers.AddedToken(content, special=True)
    special = bool(token.get("special", True))
    return tokenizers.AddedToken(
        content,
        single_word=bool(token.get("single_word", False)),
        lstrip=bool(token.get("lstrip", False)),
        rstrip=bool(token.get("rstrip", False)),
        normalized=bool(token.get("normalized", not special)),
        special=special,
    )


def _is_rebuilt(files: ModelFiles) -> bool:
    """Whether transformers makes a Llama tokenizer of its own from the vocabulary."""
    kind = str(files.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
    model = files.tokenizer.get("model")
    return (
        kind == "LlamaTokenizer"
        and files.config.get("model_type") not in TAKEN_AS_THEY_ARE
        and isinstance(model, dict)
        and model.get("type") == "BPE"
    )


def _definition(files: ModelFiles) -> str:
    """`tokenizer.json` as the library shall read it."""
    if not _is_rebuilt(files):
        return json.dumps(files.tokenizer)
    config = files.tokenizer_config
    prefix = config.get("add_prefix_space")
    has_prefix = prefix is None or bool(prefix)
    scheme = "always" if config.get("legacy", False) else "first"
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if has_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    rebuilt = {
        **files.tokenizer,
        "model": {
            **files.tokenizer["model"],
            "fuse_unk": True,
            "byte_fallback": True,
            "dropout": None,
            "unk_token": None,
            "ignore_merges": False,
        },
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": scheme if has_prefix else "never",
            "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
    }
    return json.dumps(rebuilt)


class LibraryFaults:
    """Names the failures of the Rust library, which raises bare `Exception` and panics."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # a panic of the Rust library is a BaseException
        if error is not None and not isinstance(error, _NOT_OF_THE_LIBRARY):
            raise TokenizerFault(f"{type(error).__name__}: {error}") from error


_faults = LibraryFaults()


def library_faults() -> LibraryFaults:
    """Within it failures of the library are `TokenizerFault`s."""
    return _faults
