"""The token ids that vLLM 0.32 will see for a request body, without torch or transformers.

Holds for engines started with their defaults: a server-wide `--chat-template`,
`--chat-template-content-format`, `--default-chat-template-kwargs` or tokenizer mode cannot be seen
from here, nor can a worker's time zone where a template prints the date.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rhizome.clock import Clock, SystemClock
from rhizome.render.conversation import conversation_of, has_media, tools_of, without_developer
from rhizome.render.files import ModelFiles, read_files
from rhizome.render.models import OWN_RENDERERS
from rhizome.render.outcomes import CannotRender, Why
from rhizome.render.remembering import TokenPart
from rhizome.render.template import Budget, ChatTemplate, TemplateBroken
from rhizome.render.tokenizer import ModelTokenizer

_log = logging.getLogger(__name__)

BUDGET_S = 5.0
"""Longest run of a template, in seconds, where the caller gives no limit."""
_NOT_FOR_TEMPLATES = frozenset(
    [
        "chat_template",
        "conversation",
        "messages",
        "return_assistant_tokens_mask",
        "self",
        "tokenize",
    ]
)
"""Names that `chat_template_kwargs` cannot set without changing more than the text."""
_STANDARD = frozenset({"tools", "documents", "add_generation_prompt"})


class Renderer:
    """Renders and tokenizes for one model; thread-safe, and all calls are synchronous."""

    def __init__(self, files: ModelFiles, clock: Clock) -> None:
        """Raises `ModelUnusable`."""
        self._clock = clock
        self._tokenizer = ModelTokenizer(files)
        self._special_tokens = self._tokenizer.special_tokens
        self._templates = {
            name: template
            for name, source in files.templates.items()
            if (template := _compiled(files.directory, name, source, clock)) is not None
        }
        source = files.processor_template
        self._processor_template = (
            None if source is None else _compiled(files.directory, "processor", source, clock)
        )
        self.follows_templates = not _has_own_renderer(files)
        """False for models that the engine renders with code of its own: nothing is exact."""
        self.has_chat_template = bool(self._templates or self._processor_template)

    @property
    def tokenizer(self) -> ModelTokenizer:
        """The model's tokenizer, set up as for the prompts."""
        return self._tokenizer

    def chat(self, body: Mapping[str, Any], limit_s: float = BUDGET_S) -> list[int] | None:
        """The ids of a chat body's prompt; None where they cannot be known."""
        try:
            return self.chat_ids(body, limit_s)
        except CannotRender:
            return None

    def text(self, prompt: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of a completion's prompt; raises `CannotRender` if the tokenizer fails."""
        return self._tokenizer.encode(prompt, add_special_tokens)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of ids, special tokens included; raises `CannotRender`."""
        return self._tokenizer.decode(token_ids)

    def chat_text(self, body: Mapping[str, Any], limit_s: float = BUDGET_S) -> str:
        """The text that the chat template makes; raises `CannotRender`."""
        if not self.follows_templates:
            raise CannotRender(Why.OTHER_FORMAT)
        if has_media(body["messages"]):
            raise CannotRender(Why.MEDIA)
        _refuse_engine_inputs(body)
        variables = _variables(body)
        template = self._template_for(variables["tools"])
        conversation = conversation_of(body["messages"], template.content_format)
        if not template.knows_developer:
            conversation = without_developer(conversation)
        continued = _flag(body, "continue_final_message", default=False)
        if continued and variables["add_generation_prompt"]:
            raise CannotRender(Why.SHAPE, "continue_final_message with add_generation_prompt")
        accepted = template.variables | _STANDARD
        context = self._special_tokens | {
            name: value for name, value in variables.items() if name in accepted
        }
        return template.render(conversation, context, Budget(self._clock, limit_s), continued)

    def chat_ids(self, body: Mapping[str, Any], limit_s: float = BUDGET_S) -> list[int]:
        """As `chat`, but raises `CannotRender`."""
        text = self.chat_text(body, limit_s)
        return self._encode(body, text, _flag(body, "add_special_tokens", default=False))

    def chat_parts(
        self, body: Mapping[str, Any], limit_s: float, new_chars_max: int | None = None
    ) -> list[TokenPart] | None:
        """As `chat_ids`, in parts of which the earlier ones come again in later turns.

        None if more characters than `new_chars_max` were not tokenized before, or if the body asks
        for more than its text's ids then. Raises `CannotRender`.
        """
        is_plain = _truncation(body)[0] is None and not _flag(
            body, "add_special_tokens", default=False
        )
        if is_plain:
            return self._tokenizer.parts(self.chat_text(body, limit_s), new_chars_max)
        return None if new_chars_max is not None else one_part(self.chat_ids(body, limit_s))

    def completion_ids(self, body: Mapping[str, Any], prompt: str | Sequence[int]) -> list[int]:
        """The ids of one prompt of a completion body; raises `CannotRender`."""
        if not isinstance(prompt, str):
            return completion_ids(body, prompt)
        _refuse_fill_in(body)
        if not self.follows_templates:
            raise CannotRender(Why.OTHER_FORMAT)
        return self._encode(body, prompt, _flag(body, "add_special_tokens", default=True))

    def _encode(self, body: Mapping[str, Any], text: str, add_special_tokens: bool) -> list[int]:
        tokens_max, side = _truncation(body)
        if tokens_max is None:
            return self._tokenizer.encode(text, add_special_tokens)
        if side is not None:
            return _cut(self._tokenizer.encode(text, add_special_tokens), tokens_max, side)
        return self._tokenizer.encode_end(text, add_special_tokens, tokens_max)

    def _template_for(self, tools: Any) -> ChatTemplate:
        """The processor's template for requests without tools, else the tokenizer's own."""
        if tools is None and self._processor_template is not None:
            return self._processor_template
        names = ("default",) if tools is None else ("tool_use", "default")
        for name in names:
            if name in self._templates:
                return self._templates[name]
        raise CannotRender(Why.NO_TEMPLATE)


def load_renderer(directory: Path, clock: Clock | None = None) -> Renderer:
    """Reads a model's directory; raises `ModelUnusable` with advice."""
    return Renderer(read_files(directory), clock or SystemClock())


def completion_ids(body: Mapping[str, Any], token_ids: Sequence[int]) -> list[int]:
    """A completion's prompt given as ids, as the engine cuts it; raises `CannotRender`."""
    _refuse_fill_in(body)
    tokens_max, side = _truncation(body)
    if tokens_max is None:
        return list(token_ids)
    return _cut(token_ids, tokens_max, side or "left")


def one_part(token_ids: Sequence[int]) -> list[TokenPart]:
    """Ids that come again in no other prompt; raises `CannotRender` for what cannot be ids."""
    try:
        return [TokenPart(token_ids)]
    except (TypeError, OverflowError) as error:
        raise CannotRender(Why.TOKENIZER_FAILED, "it gave something else than ids") from error


def _cut(token_ids: Sequence[int], tokens_max: int, side: str) -> list[int]:
    return list(token_ids[-tokens_max:] if side == "left" else token_ids[:tokens_max])


def _truncation(body: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """How many tokens are kept, and the side that is cut if the request names one."""
    tokens_max, side = body.get("truncate_prompt_tokens"), body.get("truncation_side")
    if tokens_max is None:
        return None, None
    if type(tokens_max) is not int or tokens_max < 1 or side not in (None, "left", "right"):
        # -1 stands for the engine's own length limit, which is not known here
        raise CannotRender(Why.SHAPE, "truncate_prompt_tokens")
    return tokens_max, side


def _has_own_renderer(files: ModelFiles) -> bool:
    architectures = files.config.get("architectures")
    if files.has_native_mistral_files:
        return True
    return isinstance(architectures, list) and any(
        isinstance(name, str) and name in OWN_RENDERERS for name in architectures
    )


def _compiled(directory: Path, name: str, source: str, clock: Clock) -> ChatTemplate | None:
    try:
        return ChatTemplate(source, clock)
    except TemplateBroken as error:
        _log.warning("chat template %r of %s cannot be compiled: %s", name, directory, error)
        return None


def _refuse_fill_in(body: Mapping[str, Any]) -> None:
    """Text around a gap, or embeddings, become a prompt only inside the engine."""
    if body.get("suffix") is not None or body.get("prompt_embeds") is not None:
        raise CannotRender(Why.OTHER_FORMAT)


def _refuse_engine_inputs(body: Mapping[str, Any]) -> None:
    if body.get("chat_template") is not None:
        raise CannotRender(Why.REQUEST_TEMPLATE)
    transfer = body.get("kv_transfer_params")
    if isinstance(transfer, Mapping) and transfer.get("prompt_token_ids") is not None:
        raise CannotRender(Why.OTHER_FORMAT, "ids given by another worker")


def _variables(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the template may use, as vLLM merges the request's fields with its own."""
    own = body.get("chat_template_kwargs")
    if own is None:
        own = {}
    if not isinstance(own, Mapping):
        raise CannotRender(Why.SHAPE, "chat_template_kwargs")
    if own.get("chat_template") is not None:
        raise CannotRender(Why.REQUEST_TEMPLATE)
    given = {name: value for name, value in own.items() if value is not None and value != "auto"}
    if not _NOT_FOR_TEMPLATES.isdisjoint(given):
        raise CannotRender(Why.SHAPE, "chat_template_kwargs")
    effort = body.get("reasoning_effort")
    if effort is not None:
        given["reasoning_effort"] = effort
        if "enable_thinking" not in own:
            given["enable_thinking"] = effort != "none"
    given.pop("continue_final_message", None)  # the request's own field decides
    given["add_generation_prompt"] = _flag(body, "add_generation_prompt", default=True)
    documents = body.get("documents")
    if documents is not None:
        given["documents"] = documents
    given.setdefault("documents", None)
    given.setdefault("tools", tools_of(body.get("tools")))
    if not _is_list_of_objects(given["tools"]) or not _is_list_of_objects(given["documents"]):
        raise CannotRender(Why.SHAPE, "tools or documents")
    return given


def _is_list_of_objects(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(item, dict) for item in value)
    )


def _flag(body: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise CannotRender(Why.SHAPE, name)
    return value
