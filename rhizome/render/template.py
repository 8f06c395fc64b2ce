"""Chat templates, compiled and run as transformers' `apply_chat_template` does, within bounds.

A template is code of the model's owner: trusted not to be hostile, but not to be right. Every
loop and macro counts its rounds, so that one that would never end ends here; the text has a
longest length. Nothing else is bounded: a single expression may still take what it takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rhizome.clock import Clock
from rhizome.render.content_format import ContentFormat, detect_content_format
from rhizome.render.outcomes import CannotRender, Why

CHARS_MAX = 32 * 2**20
"""Longest text that a template may make, in characters."""
ROUNDS_MAX = 1_000_000
"""Rounds of all loops and macro calls of one rendering."""
_ROUNDS_PER_LOOK = 64
_TICK = "rhizome_tick"
_OF_DICTS = frozenset(dir(dict))
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RuntimeError,  # also recursion without end
    TypeError,
    ValueError,
    jinja2.TemplateError,
)
"""What a wrong template can raise."""


class TemplateBroken(Exception):
    """The template cannot be compiled."""


class _TooLong(Exception):
    """The budget of a rendering is spent."""


class Budget:
    """How long one rendering may go on."""

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._ends_s = clock.monotonic_s() + limit_s
        self._rounds = 0

    def tick(self) -> None:
        """One more round of a loop or macro."""
        self._rounds += 1
        if self._rounds % _ROUNDS_PER_LOOK:
            return
        if self._rounds > ROUNDS_MAX or self._clock.monotonic_s() > self._ends_s:
            raise _TooLong


class ChatTemplate:
    """One compiled template; thread-safe."""

    def __init__(self, source: str, clock: Clock) -> None:
        """Raises `TemplateBroken`."""
        environment = _Environment(clock)
        try:
            tree = environment.parse(source)
            self.variables = frozenset(jinja2.meta.find_undeclared_variables(tree))
            self.content_format: ContentFormat = detect_content_format(tree)
            _count_rounds(tree, environment)
            self._template = jinja2.Template.from_code(
                environment, environment.compile(tree), dict(environment.globals)
            )
        except (*_FAULTS, SyntaxError) as error:
            raise TemplateBroken(f"{type(error).__name__}: {error}") from error
        self.knows_developer = '"developer"' in source or "'developer'" in source
        self._names_content = "content" in source

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        variables: Mapping[str, Any],
        budget: Budget,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt's text; raises `CannotRender`."""
        try:
            if continue_final_message:
                return self._render_open(messages, variables, budget)
            return self._run(messages, variables, budget)
        except _TooLong as error:
            raise CannotRender(Why.TEMPLATE_TOO_LONG) from error
        except _FAULTS as error:
            detail = f"{type(error).__name__}: {error}"
            raise CannotRender(Why.TEMPLATE_FAILED, detail[:500]) from error

    def _run(
        self, messages: Sequence[dict[str, Any]], variables: Mapping[str, Any], budget: Budget
    ) -> str:
        pieces: list[str] = []
        size = 0
        context = self._template.new_context({**variables, "messages": messages, _TICK: budget})
        for piece in self._template.root_render_func(context):
            size += len(piece)
            if size > CHARS_MAX:
                raise CannotRender(Why.OUTPUT_TOO_LONG)
            pieces.append(piece)
        return "".join(pieces)

    def _render_open(
        self, messages: Sequence[dict[str, Any]], variables: Mapping[str, Any], budget: Budget
    ) -> str:
        """The text up to the end of the last message's content, which stays open."""
        last, text = _tagged(messages[-1])
        if not self._names_content:
            raise CannotRender(Why.SHAPE, "the template has no content to continue")
        rendered = self._run([*messages[:-1], last], variables, budget)
        tag = _CONTINUED.strip()
        if text.strip() not in rendered or tag not in rendered:
            raise CannotRender(Why.TEMPLATE_FAILED, "the last message is not in the text")
        end = rendered.rindex(tag)
        if rendered[end : end + len(_CONTINUED)] == _CONTINUED:
            return rendered[:end]
        return rendered[:end].rstrip()


def _tagged(message: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The message with a tag after its last text, and that text."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + _CONTINUED}, content
    if isinstance(content, list):
        for index in range(len(content) - 1, -1, -1):
            text = content[index].get("text")
            if isinstance(text, str):
                part = {**content[index], "text": text + _CONTINUED}
                parts = [*content[:index], part, *content[index + 1 :]]
                return {**message, "content": parts}, text
    raise CannotRender(Why.SHAPE, "the last message has no text to continue")


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote; for prompts it only passes it on."""

    tags = {"generation"}  # noqa: RUF012 - the library declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_passed_on")
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _passed_on(self, caller: Callable[[], str]) -> str:
        return caller()


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, clock: Clock) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        self._clock = clock
        self.filters["tojson"] = _tojson
        self.filters[_TICK] = Budget.tick
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = self._strftime_now

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Refuses products and powers that would fill the memory."""
        if operator == "**" and (abs(left) > 2**32 or abs(right) > 64):
            raise SecurityError("a power is too large")
        for sequence, times in ((left, right), (right, left)):
            repeats = isinstance(sequence, str | list | tuple) and isinstance(times, int)
            if repeats and len(sequence) * times > CHARS_MAX:
                raise SecurityError("a repetition is too long")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the sandbox does it, which tries for a field of an object twice by an exception."""
        if type(obj) is dict and attribute not in _OF_DICTS:
            if attribute in obj:
                return obj[attribute]
            return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def _strftime_now(self, pattern: str) -> str:
        local = datetime.fromtimestamp(self._clock.wall_s(), tz=UTC).astimezone()
        return local.replace(tzinfo=None).strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _count_rounds(tree: nodes.Template, environment: jinja2.Environment) -> None:
    """Makes every loop and macro of the tree call the budget at each round."""
    blocks: list[nodes.For | nodes.Macro] = [*tree.find_all(nodes.For), *tree.find_all(nodes.Macro)]
    for block in blocks:
        budget = nodes.Name(_TICK, "load")
        tick = nodes.ExprStmt(nodes.Filter(budget, _TICK, [], [], None, None))
        tick.set_lineno(block.lineno)
        tick.set_environment(environment)
        block.body.insert(0, tick)
