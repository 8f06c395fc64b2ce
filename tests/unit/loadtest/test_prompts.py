"""Prompts: the tokenizer gives back exactly the blocks that went in."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from loadtest.bodies import Answers, BodyWriter
from loadtest.prompts import PromptWriter, places_of
from loadtest.workloads.catalog import Choice, open_workload
from loadtest.workloads.requests import Api, Role, Segment, TracedRequest
from loadtest.workloads.shaping import Shape
from rhizome.errors import ModelUnusable, TraceError
from rhizome.render.renderer import load_renderer


class CharacterEncoder:
    """A tokenizer without words."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(letter) for letter in text]


def blocks_of(ids: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]


def test_text_of_a_trace_gives_back_its_hash_blocks(
    writer: PromptWriter, demo_tokenizer: Path
) -> None:
    renderer = load_renderer(demo_tokenizer)
    tokens_by_hash: dict[int, tuple[int, ...]] = {}
    hash_by_tokens: dict[tuple[int, ...], int] = {}
    workload = open_workload(Choice(name="mooncake"), Shape(requests_max=60))
    for request in workload.requests():
        ids = renderer.text(writer.text(request.segments))
        assert ids == writer.ids(request.segments)
        assert len(ids) == request.prompt_len
        for hash_id, block in zip(request.hash_ids, blocks_of(ids, 512), strict=True):
            assert tokens_by_hash.setdefault(hash_id, block) == block
            assert hash_by_tokens.setdefault(block, hash_id) == hash_id
    assert len(tokens_by_hash) > 500


def metaspace_model(directory: Path, scheme: str) -> Path:
    """A tokenizer of whole words that puts a token before every text."""
    words = [f"{first}{second}ing" for first in "bcdfghklm" for second in "aeiou"]
    vocabulary = {"<unk>": 0, "<s>": 1} | {f"▁{word}": 2 + at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    setattr(tokenizer, "pre_tokenizer", pre_tokenizers.Metaspace(prepend_scheme=scheme))  # noqa: B010 - typed read-only
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    setattr(tokenizer, "post_processor", bos)  # noqa: B010 - typed read-only
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    return directory


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_text_has_exactly_its_tokens_under_tokenizers_that_begin_with_one(
    tmp_path: Path, scheme: str
) -> None:
    directory = metaspace_model(tmp_path, scheme)
    writer = PromptWriter.open(directory)
    renderer = load_renderer(directory)
    segments = [Segment(1, 16), Segment(2, 16), Segment(3, 5)]
    ids = renderer.text(writer.text(segments))
    assert writer.lead_tokens == 1
    assert len(ids) == 37
    assert ids[16:] == writer.ids(segments)[16:]
    assert ids[1:16] == writer.ids(segments)[:15]
    assert renderer.text(writer.text([*segments[:2], Segment(9, 7)]))[:32] == ids[:32]
    with pytest.raises(TraceError, match="a block size of 1 does not fit the tokenizer"):
        writer.check_blocks(1)


def test_a_tokenizer_without_words_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="only 0 words are one token"):
        PromptWriter(CharacterEncoder(), ["alpha", "beta"])


def test_a_shorter_segment_is_the_beginning_of_a_longer_one(writer: PromptWriter) -> None:
    long, short = Segment(7, 100), Segment(7, 40)
    assert writer.ids([long])[:40] == writer.ids([short])
    assert writer.text([long]).startswith(writer.text([short]))
    assert writer.ids([Segment(8, 40)]) != writer.ids([short])
    assert msgspec.json.decode(writer.ids_json([long, short])) == writer.ids([long, short])


def test_sequences_are_the_same_on_every_machine() -> None:
    assert places_of(2**64 - 1, 6, 1000) == places_of(2**64 - 1, 9, 1000)[:6]
    assert places_of(0, 3, 2**63) == [
        0xE220A8397B1DCDAF % 2**63,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]  # splitmix64 from state 0, as published with the generator


def request(*segments: Segment) -> TracedRequest:
    return TracedRequest(0, 0.0, "s", "", segments, 12, answer_key=99)


def test_a_chat_joins_neighbours_of_one_role_and_feeds_real_answers(writer: PromptWriter) -> None:
    segments = (
        Segment(1, 3, Role.SYSTEM),
        Segment(2, 2, Role.SYSTEM),
        Segment(3, 2),
        Segment(4, 5, Role.ASSISTANT),
        Segment(5, 2),
    )
    answers = Answers()
    bodies = BodyWriter(writer, "m", Api.CHAT, answers=answers)
    made_up = msgspec.json.decode(bodies.write(request(*segments)).data)
    assert [one["role"] for one in made_up["messages"]] == ["system", "user", "assistant", "user"]
    assert len(made_up["messages"][0]["content"].split()) == 5
    assert bodies.answers_known(request(*segments)) == (0, 1)
    answers.keep(4, "what it said")
    real = msgspec.json.decode(bodies.write(request(*segments)).data)
    assert real["messages"][2]["content"] == "what it said"
    assert real["messages"][:2] == made_up["messages"][:2]
    assert bodies.answers_known(request(*segments)) == (1, 1)


def test_a_body_asks_for_exactly_its_answer(writer: PromptWriter) -> None:
    bodies = BodyWriter(writer, "m", Api.IDS, extra={"temperature": None, "cache_salt": "x"})
    body = bodies.write(request(Segment(1, 20)))
    fields = msgspec.json.decode(body.data)
    assert body.path == "/v1/completions"
    assert body.prompt_tokens == 20 == len(fields["prompt"])
    assert (fields["max_tokens"], fields["ignore_eos"], fields["stream"]) == (12, True, True)
    assert fields["stream_options"] == {"include_usage": True}
    assert fields["cache_salt"] == "x"
    assert "temperature" not in fields
