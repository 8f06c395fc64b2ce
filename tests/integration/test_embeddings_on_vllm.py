"""A real embedding model on a real vLLM behind the router: near words are near."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import numpy as np
import openai
import pytest
import pytest_asyncio

from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState
from rhizome.settings.cluster import WorkerSettings
from rhizome.settings.load import environment_copy
from tests.support.packaged_models import all_minilm
from tests.support.serving import Api, running_api
from workers.addresses import listen_on
from workers.engine.process import HostOptions, VllmEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(420),
    pytest.mark.asyncio(loop_scope="module"),
]
ENGINE_KEY = "rzk-of-the-engine"
START_S = 240.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    spec = ModelSpec.model_validate(
        {
            "name": "minilm",
            "source": str(await asyncio.to_thread(all_minilm)),
            "kv_cache_memory": "16M",
            "engine_args": {"runner": "pooling"},
        }
    )
    options = HostOptions(WorkerSettings(), tmp_path_factory.mktemp("models"), environment_copy())
    engine = VllmEngine(spec, options, listen_on("127.0.0.1", 0), ENGINE_KEY)
    try:
        facts = await asyncio.wait_for(engine.start(lambda phase: None), START_S)
        async with running_api() as api:
            record = WorkerRecord(
                worker_id="w0",
                incarnation="a",
                model="minilm",
                url=facts.url,
                state=WorkerState.READY,
                api_key=ENGINE_KEY,
                model_root=facts.model_root,
                max_model_len=facts.max_model_len,
            )
            api.router.fleet.upsert(record, 0.0)
            yield api
    finally:
        await engine.stop()


async def test_near_words_are_near(api: Api) -> None:
    words = ["king", "queen", "a cup of coffee", "a mug of tea", "granite"]
    async with openai.AsyncOpenAI(base_url=api.url + "/v1", api_key="none") as client:
        answer = await client.embeddings.create(model="minilm", input=words)
        plain = await client.embeddings.create(
            model="minilm", input=words[0], encoding_format="float"
        )
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (5, 384)
    near = vectors @ vectors.T
    assert np.allclose(near.diagonal(), 1, atol=0.02)
    assert near[0].argsort()[-2] == 1, "a queen is nearest to a king"
    assert near[2].argsort()[-2] == 3, "tea is nearest to coffee"
    assert near[4, :4].max() < min(near[0, 1], near[2, 3])
    assert np.allclose(plain.data[0].embedding, vectors[0], atol=0.01)
    assert answer.usage.prompt_tokens > len(words)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
async def test_documents_are_ranked_by_meaning(api: Api, path: str) -> None:
    documents = ["Stones are hard.", "Her Majesty the queen", "Tea"]
    body = {"model": "minilm", "query": "the king", "documents": documents, "top_n": 2}
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        results = (await http.post(path, json=body)).json()["results"]
    assert results[0]["index"] == 1
    assert len(results) == 2


async def test_scores_pooling_and_tokens_come_through(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        for path in ("/v1/score", "/score"):
            pair = {"model": "minilm", "text_1": "king", "text_2": ["queen", "granite"]}
            scores = [one["score"] for one in (await http.post(path, json=pair)).json()["data"]]
            assert scores[0] > scores[1]
        pooled = await http.post("/pooling", json={"model": "minilm", "input": "king"})
        assert len(pooled.json()["data"][0]["data"]) == 384
        tokens = await http.post("/tokenize", json={"model": "minilm", "prompt": "king"})
        assert tokens.json()["count"] == 3


async def test_what_the_model_cannot_do_is_said_by_its_engine(api: Api) -> None:
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
        chat = {"model": "minilm", "messages": [{"role": "user", "content": "Hi"}]}
        for path, body in (
            ("/v1/chat/completions", chat),
            ("/classify", {"model": "minilm", "input": "king"}),
        ):
            answer = await http.post(path, json=body)
            assert answer.status_code in (400, 404, 501), (path, answer.text)
            assert answer.headers["x-rhizome-worker"] == "w0"
