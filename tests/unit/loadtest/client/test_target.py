"""What is said of a target that cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.client.connection import Address
from loadtest.client.target import Target, tokenizer_directory
from loadtest.prompts import PromptWriter
from rhizome.errors import TargetUnusable
from tests.support.load_models import PacedServer, running_paced


async def test_the_first_model_is_taken_unless_one_is_named(demo_tokenizer: Path) -> None:
    server = PacedServer(models=("m", "n"), root=str(demo_tokenizer))
    async with running_paced(server):
        target = Target(f"{server.url}/v1/", None)
        facts = await target.facts(None)
        assert (facts.model, facts.models, facts.max_model_len) == ("m", ["m", "n"], 4096)
        assert (await target.facts("n")).model == "n"
        assert tokenizer_directory(None, facts) == demo_tokenizer


async def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    async with running_paced(PacedServer()) as server:
        with pytest.raises(TargetUnusable, match="does not serve the model 'x'") as caught:
            await Target(server.url, None).facts("x")
    assert caught.value.advice == "It serves: m."


async def test_a_server_without_models_or_with_another_api_is_refused() -> None:
    async with running_paced(PacedServer(models=())) as server:
        with pytest.raises(TargetUnusable, match="serves no model"):
            await Target(server.url, None).facts(None)
        with pytest.raises(TargetUnusable, match="answered 404"):
            await Target(f"{server.url}/nothing", None).facts(None)


async def test_a_dead_target_and_a_url_that_is_none_are_told() -> None:
    async with running_paced(PacedServer()) as server:
        url = server.url
    with pytest.raises(TargetUnusable, match="no answer from"):
        await Target(url, None).facts(None)
    for wrong in ("host:80", "ftp://host", "http://", "http://h:x"):
        with pytest.raises(TargetUnusable, match="URL"):
            Target(wrong, None)


async def test_an_unknown_tokenizer_is_asked_for() -> None:
    async with running_paced(PacedServer(root="no/such-model-here")) as server:
        facts = await Target(server.url, None).facts(None)
    with pytest.raises(TargetUnusable, match="where the tokenizer of 'm' lies") as caught:
        tokenizer_directory(None, facts)
    assert "--tokenizer" in caught.value.advice


async def test_another_tokenizer_than_the_served_one_is_found_out(writer: PromptWriter) -> None:
    async with running_paced(PacedServer(tokens=[1, 2, 3])) as server:
        with pytest.raises(TargetUnusable, match="encodes text of 'm' in another way"):
            await Target(server.url, None).check_tokenizer("m", writer)
    sample = writer.encode(" " + " ".join(writer.words[-64:]))
    async with running_paced(PacedServer(tokens=sample)) as server:
        assert await Target(server.url, None).check_tokenizer("m", writer)
    async with running_paced(PacedServer()) as server:
        assert not await Target(server.url, None).check_tokenizer("m", writer)


def test_an_address_knows_its_parts() -> None:
    assert Address.of("https://host/api/v1") == Address("host", 443, "/api", True)
    assert Address.of("http://[::1]:8000").authority == "[::1]:8000"
