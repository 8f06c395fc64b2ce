"""LangChain, LlamaIndex and schemathesis against the router before simulated workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.rig import MODEL, client_program, open_rig, run_client

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).with_name("frameworks_script.py")
OPENAI_PATHS = r"^/v1/(chat/completions|completions|responses|messages|embeddings|models.*)$"
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


async def test_no_request_made_up_from_our_own_document_is_a_fault(tmp_path: Path) -> None:
    schemathesis = str(Path(client_program("langchain-openai")).with_name("schemathesis"))
    async with open_rig(tmp_path) as rig:
        command = [schemathesis, "run", rig.url + "/openapi.json", "--url", rig.url]
        command += ["--include-path-regex", OPENAI_PATHS, "--checks", CHECKS]
        command += ["--max-examples", "40", "--seed", "1", "--no-color"]
        command += ["--suppress-health-check", "all"]
        said = await run_client(command, tmp_path)
    assert "No issues found" in said, said
