"""LangChain, LlamaIndex and schemathesis against the router before simulated workers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.rig import MODEL, client_program, open_rig, run_client

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("frameworks_script.py")
OPENAI_PATHS = r"^/v1/(chat/completions|completions|responses|messages|embeddings|models.*)$"
_LENGTHS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
CHECKS = "not_a_server_error,content_type_conformance,unsupported_method,missing_required_header"


async def test_chats_of_langchain_and_llama_index(tmp_path: Path) -> None:
    python = client_program("langchain-openai")
    async with open_rig(tmp_path) as rig:
        said = await run_client([python, str(SCRIPT), rig.url, "none", MODEL], tmp_path)
    found = json.loads(said.strip().splitlines()[-1])
    langchain, llama_index = found["langchain"], found["llama_index"]
    assert langchain["tokens"] == 8
    assert langchain["text"]
    assert langchain["streamed"] == langchain["text"]
    assert langchain["batch"] == [langchain["text"]] * 2
    assert langchain["completion"]
    assert llama_index["text"]
    assert llama_index["streamed"] == llama_index["text"]
    assert llama_index["completion"]


@pytest.mark.parametrize(("mode", "model"), [("positive", MODEL), ("negative", "nobody")])
async def test_no_request_made_up_from_our_own_document_is_a_fault(
    tmp_path: Path, mode: str, model: str
) -> None:
    """Right ones are answered by engines; wrong ones would let them work for long, so that they
    name a model that is not there."""
    schemathesis = str(Path(client_program("langchain-openai")).with_name("schemathesis"))
    async with open_rig(tmp_path) as rig:
        async with httpx.AsyncClient(base_url=rig.url) as http:
            document = (await http.get("/openapi.json")).json()
        (tmp_path / "openapi.json").write_text(json.dumps(_narrowed(document, model)))
        command = [schemathesis, "run", "openapi.json", "--url", rig.url]
        command += ["--include-path-regex", OPENAI_PATHS, "--checks", CHECKS]
        # One thread: until 3.11.8 Python fails now and then where several parse source at once.
        command += ["--max-examples", "15", "--seed", "1", "--no-color", "--workers", "1"]
        command += ["--mode", mode, "--request-timeout", "60"]
        command += ["--suppress-health-check", "all"]
        said = await run_client(command, tmp_path)
    found = re.search(r"(\d+) generated, (\d+) passed", said)
    assert found is not None, said
    assert int(found[1]) == int(found[2]) >= 100, said


def _narrowed(document: dict[str, Any], model: str) -> dict[str, Any]:
    """For a router that has one model and no store, which it would rightly call unavailable;
    and for answers of a few tokens."""
    for operations in document["paths"].values():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for described in content.values():
            properties = described["schema"].get("properties", {})
            for name in ("store", "previous_response_id"):
                properties.pop(name, None)
            for name in _LENGTHS.intersection(properties):
                properties[name] = {"enum": [1, 3]}
                required = described["schema"]["required"]
                described["schema"]["required"] = sorted({*required, name})
                described["example"][name] = 3
            if "model" in properties:
                properties["model"] = {"enum": [model]}
                described["example"]["model"] = model
    return document
