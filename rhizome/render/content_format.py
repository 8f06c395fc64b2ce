"""Whether a chat template reads message content as text or as a list of parts.

vLLM decides this by looking at the template: one that loops over a message's content gets lists
("openai"), every other one gets the texts joined ("string"). The rules here find the same loops:
`messages` and the names assigned from it, the loop variables over those, their `content`, also
when it is given to a macro, and a plain `content`.
"""

from __future__ import annotations

from typing import Literal

from jinja2 import nodes

ContentFormat = Literal["string", "openai"]


class _Unclear(Exception):
    """The template unpacks where a single name was expected; vLLM then takes text."""


def detect_content_format(tree: nodes.Template) -> ContentFormat:
    """The format that vLLM's automatic detection chooses."""
    try:
        return "openai" if _loops_over_content(tree) else "string"
    except _Unclear:
        return "string"


def _loops_over_content(tree: nodes.Template) -> bool:
    message_names = _message_names(tree)
    passed = _passed_to_macros(tree, message_names)
    for loop in tree.find_all(nodes.For):
        if any(_reads(loop.iter, name, "content") for name in message_names):
            _name_of(loop.target)
            return True
        if not isinstance(loop.iter, nodes.Name):
            continue
        in_macro = id(loop) in passed
        if loop.iter.name in passed.get(id(loop), ()) or (
            not in_macro and loop.iter.name == "content"
        ):
            _name_of(loop.target)
            return True
    return False


def _message_names(tree: nodes.Template) -> list[str]:
    """Loop variables that stand for one message."""
    lists = _names_of_messages(tree)
    return [
        _name_of(loop.target)
        for loop in tree.find_all(nodes.For)
        if any(_reads(loop.iter, name) for name in lists)
    ]


def _names_of_messages(tree: nodes.Template) -> list[str]:
    """`messages` and every name assigned from it, directly or not."""
    names = ["messages"]
    for name in names:
        for assignment in tree.find_all(nodes.Assign):
            if _reads(assignment.node, name):
                target = _name_of(assignment.target)
                if target not in names:
                    names.append(target)
    return names


def _passed_to_macros(tree: nodes.Template, message_names: list[str]) -> dict[int, set[str]]:
    """By loop inside a macro: the macro's parameters that are given a message's content."""
    passed: dict[int, set[str]] = {}
    for macro in tree.find_all(nodes.Macro):
        parameters = [argument.name for argument in macro.args]
        given: set[str] = set()
        for call in tree.find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                arguments = list(zip(parameters, call.args, strict=False))
                arguments += [(word.key, word.value) for word in call.kwargs]
                given |= {
                    parameter
                    for parameter, value in arguments
                    if parameter in parameters
                    and any(_reads(value, name, "content") for name in message_names)
                }
        for loop in macro.find_all(nodes.For):
            if given or id(loop) not in passed:
                passed[id(loop)] = given
    return passed


def _name_of(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _Unclear
    return target.name


def _reads(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether the node is the variable (or its `key`), perhaps filtered, tested or sliced."""
    if isinstance(node, nodes.Filter | nodes.Test):
        return _reads(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _reads(node.node, name, key)
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        is_key = isinstance(node.arg, nodes.Const) and node.arg.value == key
        return is_key and _is_variable(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _is_variable(node.node, name)


def _is_variable(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
