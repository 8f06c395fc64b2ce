"""The syntax of a worker given by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhizome.errors import SettingsError
from router.discovery.static_worker import StaticWorker, parse_static_worker, parse_static_workers

CURVE = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def test_all_parts_are_read() -> None:
    worker = parse_static_worker(
        "http://127.0.0.1:9001,events=tcp://127.0.0.1:5601,replay=tcp://127.0.0.1:5701,"
        f"topic=kv,curve={CURVE},key=secret"
    )
    assert worker == StaticWorker(
        url="http://127.0.0.1:9001",
        events="tcp://127.0.0.1:5601",
        replay="tcp://127.0.0.1:5701",
        topic="kv",
        curve=CURVE,
        key="secret",
    )
    assert worker.worker_id == "127.0.0.1:9001"
    assert "secret" not in repr(worker)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:1/", "http://h:1"),
        ("http://h", "http://h:80"),
        ("https://h", "https://h:443"),
        ("http://[::1]:9001", "http://[::1]:9001"),
    ],
)
def test_urls_are_brought_into_one_form(text: str, url: str) -> None:
    assert parse_static_worker(text).url == url


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "http"),
        ("127.0.0.1:9001", "http"),
        ("ftp://h:1", "http"),
        ("http://h:99999", "URL"),
        ("http://h:1/v1", "path"),
        ("http://me:pass@h:1", "key="),
        ("http://h:1,event=tcp://h:2", "'events'"),
        ("http://h:1,events", "events"),
        ("http://h:1,events=", "events"),
        ("http://h:1,events=h:2", "events"),
        ("http://h:1,events=tcp://h", "events"),
        ("http://h:1,events=tcp://h:0", "events"),
        ("http://h:1,events=tcp://h:2,replay=http://h:3", "replay"),
        ("http://h:1,events=tcp://h:2,curve=short", "curve"),
        ("http://h:1,replay=tcp://h:2", "need `events`"),
        ("http://h:1,topic=kv", "need `events`"),
        ("http://h:1,key=a,key=b", "twice"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(SettingsError, match=part) as caught:
        parse_static_worker(text)
    assert "pass@" not in str(caught.value)
    assert caught.value.advice


def test_a_worker_given_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="twice"):
        parse_static_workers(("http://h:1", "http://h:1/,key=a"))


def test_a_key_file_keeps_the_key_out_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("rzk-from-a-file\n")
    assert parse_static_worker(f"http://h:1,key-file={file}").key == "rzk-from-a-file"
    with pytest.raises(SettingsError, match="not both"):
        parse_static_worker(f"http://h:1,key=a,key-file={file}")
    file.write_text(" \n")
    with pytest.raises(SettingsError, match="is empty"):
        parse_static_worker(f"http://h:1,key-file={file}")
    with pytest.raises(SettingsError, match="cannot read the key file"):
        parse_static_worker(f"http://h:1,key-file={tmp_path / 'none'}")


def test_a_worker_can_be_taken_as_one_that_tells_nothing() -> None:
    worker = parse_static_worker("http://h:1,events=off,tokenizer=off")
    assert worker.events == "off"
    assert not worker.tokenizer
    assert parse_static_worker("http://h:1").tokenizer


def test_what_its_events_do_not_say_of_its_cache_can_be_given() -> None:
    worker = parse_static_worker("http://h:1,eagle=on,chunk=8192")
    assert (worker.eagle, worker.chunk_tokens) == (True, 8192)
    assert not parse_static_worker("http://h:1").eagle
    for text, part in (("eagle=off", "only be `on`"), ("chunk=no", "tokens"), ("chunk=0", "tok")):
        with pytest.raises(SettingsError, match=part):
            parse_static_worker(f"http://h:1,{text}")


@pytest.mark.parametrize(
    ("text", "part"),
    [("http://h:1,tokenizer=on", "only be `off`"), ("http://h:1,events=off,topic=t", "endpoint")],
)
def test_only_off_turns_off(text: str, part: str) -> None:
    with pytest.raises(SettingsError, match=part):
        parse_static_worker(text)
