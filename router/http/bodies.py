"""Request bodies, read once and typed where the router looks.

The engine is the authority on meaning: checked here is what the router itself reads, and what is
wrong beyond doubt. Unknown fields are kept. Every refusal names the field and says what to send.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from rhizome.errors import InvalidRequest
from router.http.fields import (
    are_token_ids,
    check,
    decode_object,
    is_count,
    is_flag,
    is_list,
    is_not_negative,
    is_object,
    is_positive,
    is_text,
    kind_of,
    model_of,
)

PROMPTS_MAX = 2048
"""Most prompts in one completion request."""
_SESSION_CHARS_MAX = 256
_REPORT_MODE = "kv_cache_report_mode"
_USAGE_ASKED = b',"stream_options":{"include_usage":true}}'
_encoder = msgspec.json.Encoder()


class EngineBody(msgspec.Struct, frozen=True):
    """A body on its way to an engine."""

    prompt_param: ClassVar[str] = "prompt"
    """The field that a prompt that is too long is blamed on."""
    usage_on_request: ClassVar[bool] = True
    """Whether streams of this API tell their usage only to those who ask for it."""
    shares_prefix: ClassVar[bool] = False
    """Whether workers keep what they computed of the prompt, so that it matters who answers."""

    raw: bytes
    """As the client sent it."""
    fields: dict[str, Any]
    """The decoded object; not to be changed."""
    model: str
    """The one to ask for, which may be another than the client named."""
    is_changed: bool = False
    """Whether `fields` are no longer those of `raw`."""
    content_type: str = "application/json"
    """What an engine is told that it gets."""
    texts: Sequence[tuple[str, str]] | None = None
    """Role and text of each of the messages, if it is known that these have nothing else."""

    @property
    def stream(self) -> bool:
        """Whether the client asked for server-sent events."""
        return self.fields.get("stream") is True

    @property
    def include_usage(self) -> bool:
        """Whether the client asked for usage at the end of its stream."""
        options = self.fields.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @property
    def usage_added(self) -> bool:
        """Whether usage is asked for on the router's behalf; the client shall not see it."""
        return self.usage_on_request and self.stream and not self.include_usage

    @property
    def for_engine(self) -> bytes:
        """The body to send: as it came, but for what the router must decide itself.

        A stream always reports its usage. `kv_cache_report_mode` goes: it would make the engine
        announce blocks again that it announced before, and so falsify what is known of its cache.
        """
        fields = self.fields
        changes: dict[str, Any] = {}
        if self.model != fields.get("model"):
            changes["model"] = self.model
        extra = fields.get("vllm_xargs")
        if isinstance(extra, dict) and _REPORT_MODE in extra:
            changes["vllm_xargs"] = {k: v for k, v in extra.items() if k != _REPORT_MODE}
        if self.usage_added:
            if not changes and not self.is_changed and "stream_options" not in fields:
                return self.raw[: self.raw.rindex(b"}")] + _USAGE_ASKED
            options = fields.get("stream_options") or {}
            changes["stream_options"] = {**options, "include_usage": True}
        if changes or self.is_changed:
            return _encoder.encode({**fields, **changes})
        return self.raw

    @property
    def cache_salt(self) -> str | None:
        """What separates this prompt's cache blocks from others'."""
        salt = self.fields.get("cache_salt")
        return salt if isinstance(salt, str) and salt else None

    @property
    def session(self) -> str | None:
        """A key that related requests share, if the client gave one; the first of three fields."""
        for name in ("session_id", "prompt_cache_key", "user"):
            value = self.fields.get(name)
            if isinstance(value, str) and value:
                return value[:_SESSION_CHARS_MAX]
        return None

    @property
    def max_tokens(self) -> int | None:
        """The most tokens to generate, if the client says so."""
        for name in ("max_completion_tokens", "max_tokens"):
            if self.fields.get(name) is not None:
                return int(self.fields[name])
        return None

    @property
    def n(self) -> int:
        """Completions asked for each prompt."""
        return int(self.fields.get("n") or 1)


class ChatBody(EngineBody, frozen=True):
    """A chat completion, or what an engine renders as one."""

    shares_prefix = True
    prompt_param = "messages"

    def chat(self) -> Mapping[str, Any]:
        """The fields of a chat completion with the same prompt; may raise `CannotRender`."""
        return self.fields


class CompletionBody(EngineBody, frozen=True, dict=True):
    """A completion."""

    shares_prefix = True

    @cached_property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or more; empty if the request gives embeddings instead."""
        prompt = self.fields.get("prompt")
        if prompt is None:
            return []
        if isinstance(prompt, str):
            return [prompt]
        return [prompt] if isinstance(prompt[0], int) else prompt

    @property
    def first_prompt(self) -> str | list[int]:
        """The prompt that a worker is chosen by."""
        return self.prompts[0] if self.prompts else ""


class TokenizerBody(EngineBody, frozen=True):
    """Something to tokenize or to detokenize."""

    usage_on_request = False


def read_chat(data: bytes) -> ChatBody:
    """A body of `/v1/chat/completions`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    messages = fields.get("messages")
    texts = _texts_of(messages)
    if texts is None:
        check_messages(messages)
    _check_each(fields, _CHAT)
    return ChatBody(data, fields, model, texts=texts)


def read_completion(data: bytes) -> CompletionBody:
    """A body of `/v1/completions`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    if fields.get("prompt") is not None or fields.get("prompt_embeds") is None:
        _check_prompt(fields.get("prompt"))
    _check_each(fields, _COMMON)
    return CompletionBody(data, fields, model)


def read_tokenizer_body(data: bytes) -> TokenizerBody:
    """A body of `/tokenize` or `/detokenize`; raises `MalformedBody` or `InvalidRequest`."""
    fields = decode_object(data)
    model = model_of(fields)
    if "messages" in fields:
        check_messages(fields["messages"])
    elif "tokens" in fields:
        tokens = fields["tokens"]
        if not isinstance(tokens, list) or not are_token_ids(tokens):
            raise InvalidRequest("'tokens' must be a list of token ids", param="tokens")
    elif not isinstance(fields.get("prompt"), str):
        raise InvalidRequest(
            "send 'prompt' (text) or 'messages' to tokenize, or 'tokens' to detokenize",
            param="prompt",
        )
    return TokenizerBody(data, fields, model)


def check_messages(messages: Any) -> None:
    """Raises `InvalidRequest` unless it is a list of messages that can be read."""
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest(
            "'messages' must be a list of at least one message, "
            'e.g. [{"role": "user", "content": "Hello"}]',
            param="messages",
        )
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(
                f"message {index} must be an object with 'role' and 'content', "
                f"not {kind_of(message)}",
                param=f"messages.{index}",
            )
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidRequest(
                f"message {index} needs a 'role', e.g. system, user, assistant or tool",
                param=f"messages.{index}.role",
            )
        _check_content(message.get("content"), f"messages.{index}.content")


def _texts_of(messages: Any) -> list[tuple[str, str]] | None:
    """Role and text of each message, if they have these two and nothing else, as most have."""
    texts = []
    try:
        for message in messages:
            role, text = message["role"], message["content"]
            if type(role) is not str or not role or type(text) is not str or len(message) != 2:
                return None
            texts.append((role, text))
    except (KeyError, TypeError):
        return None
    return texts or None


def _check_content(content: Any, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequest(
            f"'content' must be text or a list of parts, not {kind_of(content)}", param=param
        )
    for index, part in enumerate(content):
        if not isinstance(part, str | dict):
            raise InvalidRequest(
                f"part {index} of 'content' must be an object with a 'type', not {kind_of(part)}",
                param=f"{param}.{index}",
            )


def _check_prompt(prompt: Any) -> None:
    if isinstance(prompt, str):
        return
    if isinstance(prompt, list) and prompt:
        if are_token_ids(prompt):
            return
        if len(prompt) > PROMPTS_MAX:
            raise InvalidRequest(f"send at most {PROMPTS_MAX} prompts at once", param="prompt")
        if all(isinstance(item, str) for item in prompt):
            return
        if all(isinstance(item, list) and item and are_token_ids(item) for item in prompt):
            return
    raise InvalidRequest(
        "'prompt' must be text, a list of texts, a list of token ids, or a list of such lists; "
        "none of them empty",
        param="prompt",
    )


_COMMON: dict[str, tuple[Callable[[Any], bool], str]] = {
    "stream": (is_flag, "true or false"),
    "stream_options": (is_object, "an object, e.g. {'include_usage': true}"),
    "max_tokens": (is_count, "a whole number, 0 or more"),
    "n": (is_positive, "a whole number, 1 or more"),
    "temperature": (is_not_negative, "a number, 0 or more"),
    "top_p": (is_not_negative, "a number between 0 and 1"),
    "cache_salt": (is_text, "text"),
}
_CHAT = _COMMON | {
    "max_completion_tokens": (is_count, "a whole number, 0 or more"),
    "tools": (is_list, "a list of tools"),
    "chat_template_kwargs": (is_object, "an object"),
}
"""By field: what it must be, and how that is said."""


def _check_each(
    fields: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]]
) -> None:
    for name in fields:
        if name in rules:
            check(fields, name, *rules[name])
    options = fields.get("stream_options")
    if options:
        check(options, "include_usage", is_flag, "true or false", within="stream_options.")
