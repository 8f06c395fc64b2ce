"""What a router may be wrong about, one function each, and requests to find it out with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer, processors

from rhizome.render.renderer import Renderer, load_renderer
from rhizome.wire.kv_events import (
    BlockRemoved,
    BlockStored,
    KVEvent,
    KVEventBatch,
    encode_batch,
)
from tests.support.mismatch import MODEL, Body, Rig
from workers.engine.simulated.server.words import Words

WORDS = "the quick answer to a long question about rivers and towers "
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city, for some days to come.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
Ask = Callable[[int], tuple[str, Body]]


def chat(turn: int) -> tuple[str, Body]:
    text = f"{turn}: {WORDS * (3 + turn % 3)}"
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}]}


def chat_with_tools(turn: int) -> tuple[str, Body]:
    path, body = chat(turn)
    return path, body | {"tools": [TOOL], "tool_choice": "none"}


def two_answers(turn: int) -> tuple[str, Body]:
    path, body = chat(turn)
    return path, body | {"n": 2}


def completion(turn: int) -> tuple[str, Body]:
    return "/v1/completions", {"prompt": f"{turn}: {WORDS * (3 + turn % 3)}"}


def response(turn: int) -> tuple[str, Body]:
    return "/v1/responses", {"input": f"{turn}: {WORDS * (3 + turn % 3)}", "max_output_tokens": 2}


def same_chat(turn: int) -> tuple[str, Body]:
    return chat(0)


@dataclass
class Models:
    """The engine's model directory and others that differ from it in one thing."""

    directory: Path
    words: Words
    _made: dict[str, Renderer] = field(default_factory=dict)

    def with_bos(self) -> Renderer:
        return self._variant("bos", self._add_bos)

    def with_template(self, old: str, new: str) -> Renderer:
        def change(directory: Path) -> None:
            file = directory / "chat_template.jinja"
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new))

        return self._variant(new, change)

    def _variant(self, name: str, change: Callable[[Path], None]) -> Renderer:
        if name not in self._made:
            other = self.directory.with_name(f"variant-{len(self._made)}")
            shutil.copytree(self.directory, other)
            change(other)
            self._made[name] = load_renderer(other)
        return self._made[name]

    @staticmethod
    def _add_bos(directory: Path) -> None:
        tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
        )
        tokenizer.save(str(directory / "tokenizer.json"))


def door(**fields: object) -> Callable[[Rig, Models], None]:
    def breaks(rig: Rig, models: Models) -> None:
        for name, value in fields.items():
            setattr(rig.door, name, value)

    return breaks


def renders(make: Callable[[Models], Renderer]) -> Callable[[Rig, Models], None]:
    def breaks(rig: Rig, models: Models) -> None:
        rig.door.renderer = make(models)

    return breaks


def events(change: Callable[[Sequence[KVEvent]], Any]) -> Callable[[Rig, Models], None]:
    def breaks(rig: Rig, models: Models) -> None:
        rig.events.change = change

    return breaks


def adds(**fields: object) -> Callable[[Body], Body]:
    return lambda body: body | fields


def sorts_schemas(body: Body) -> Body:
    def reordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: reordered(value[key]) for key in sorted(value)}
        return value

    if not body.get("tools"):
        return body
    return body | {"tools": [reordered(tool) for tool in body["tools"]]}


def counts_prompts_by_answers(asked: Body, said: Body) -> None:
    said["usage"]["prompt_tokens"] *= asked.get("n", 1)


def puts_instructions_in_front(asked: Body) -> Body:
    if "input" not in asked:
        return asked
    messages = [
        {"role": "system", "content": "Go on with what was said before."},
        {"role": "user", "content": asked["input"]},
    ]
    return {"model": MODEL, "max_tokens": 2, "messages": messages}


def of_another_size(told: Sequence[KVEvent]) -> list[KVEvent]:
    """The same tokens as an engine tells of them whose blocks are half as long again."""
    out: list[KVEvent] = []
    for event in told:
        if isinstance(event, BlockStored) and len(event.block_hashes) > 1:
            size = event.block_size * 3 // 2
            count = len(event.token_ids) // size
            out.append(
                msgspec.structs.replace(
                    event,
                    block_hashes=event.block_hashes[:count],
                    token_ids=event.token_ids[: count * size],
                    block_size=size,
                    extra_keys=None,
                )
            )
    return out


def with_pictures(told: Sequence[KVEvent]) -> list[KVEvent]:
    return [
        msgspec.structs.replace(one, extra_keys=[[["a-picture", 0]] for _ in one.block_hashes])
        if isinstance(one, BlockStored)
        else one
        for one in told
    ]


def renamed(told: Sequence[KVEvent]) -> list[KVEvent]:
    """The same blocks under the hashes of another seed, and nothing of it that went before."""

    def other(hashes: Sequence[int | bytes]) -> list[int | bytes]:
        return [hash(("seed", one)) & (2**63 - 1) for one in hashes]

    out: list[KVEvent] = []
    for one in told:
        if isinstance(one, BlockStored):
            parent = one.parent_block_hash
            out.append(
                msgspec.structs.replace(
                    one,
                    block_hashes=other(one.block_hashes),
                    parent_block_hash=None if parent is None else other([parent])[0],
                )
            )
        elif isinstance(one, BlockRemoved):
            out.append(msgspec.structs.replace(one, block_hashes=other(one.block_hashes)))
        else:
            out.append(one)
    return out


def of_a_version_to_come(told: Sequence[KVEvent]) -> bytes:
    raw = msgspec.msgpack.decode(encode_batch(KVEventBatch(ts=1.0, events=list(told))))
    for event in raw[1]:
        event["type"] += "V9"
    return msgspec.msgpack.encode(raw)


def unsaid(told: Sequence[KVEvent]) -> list[KVEvent]:
    return []
