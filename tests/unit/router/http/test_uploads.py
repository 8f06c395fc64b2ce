"""A form goes to the engine as it came; only its model is read, and replaced if need be."""

from __future__ import annotations

import httpx
import pytest
from msgspec.structs import replace

from rhizome.errors import InvalidRequest, MalformedBody
from router.http.uploads import UploadBody, read_audio
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import running_api

SOUND = b"RIFF\x00--boundary\r\n\r\nmodel\x00" * 500


def form(**fields: str) -> tuple[bytes, str]:
    request = httpx.Request(
        "POST", "http://x/", data=fields, files={"file": ("a.wav", SOUND, "audio/wav")}
    )
    return request.read(), request.headers["content-type"]


def test_the_model_is_found_and_the_form_kept() -> None:
    data, content_type = form(model="whisper", stream="true", prompt="x" * 5000)
    body = read_audio(data, content_type)
    assert (body.model, body.stream, body.content_type) == ("whisper", True, content_type)
    assert body.for_engine is data
    assert not body.usage_added


def test_another_model_takes_the_place_of_the_first() -> None:
    data, content_type = form(model="whisper", language="de")
    body: UploadBody = replace(read_audio(data, content_type), model="other-model")
    again = read_audio(body.for_engine, content_type)
    assert again.model == "other-model"
    assert SOUND in again.raw
    assert len(again.raw) == len(data) + len("other-model") - len("whisper")


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -3, -40])
def test_what_is_no_whole_form_is_malformed(cut: int) -> None:
    data, content_type = form(model="whisper")
    with pytest.raises((MalformedBody, InvalidRequest)):
        read_audio(data[:cut] if cut > 0 else b"" if not cut else b"x" + data, content_type)


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary="])
def test_a_form_needs_a_boundary(content_type: str) -> None:
    with pytest.raises(MalformedBody):
        read_audio(form(model="m")[0], content_type)


def test_a_form_without_a_model_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_audio(*form(language="de"))
    assert caught.value.param == "model"


def test_a_form_with_two_models_is_refused() -> None:
    data, content_type = form(model="m")
    boundary = content_type.partition("boundary=")[2].encode()
    part = b"--%b\r\nContent-Disposition: form-data; name=model\r\n\r\nother\r\n" % boundary
    with pytest.raises(MalformedBody):
        read_audio(part + data, content_type)


async def test_a_form_passes_through_the_router() -> None:
    data, content_type = form(model="m")
    async with running_engine(FakeEngine()) as engine, running_api() as api:
        api.join(engine)
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as http:
            headers = {"content-type": content_type}
            path = "/v1/audio/transcriptions"
            answer = await http.post(path, content=data, headers=headers)
            assert answer.status_code == 200
            assert engine.bodies == [data]
            assert engine.headers[0]["content-type"] == content_type
            assert (await http.post(path, json={"model": "m"})).status_code == 415
            other = await http.post("/v1/completions", content=data, headers=headers)
            assert other.status_code == 415
