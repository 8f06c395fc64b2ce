"""A catalog's file is taken whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rhizome.errors import SettingsError
from router.catalog.source import FILE_BYTES_MAX, CatalogSource, UnusableCatalog, read_catalog

GOOD = """
products:
  chat:
    shares: [{model: llama, weight: 95}, {model: llama-next, weight: 5}]
    fallbacks: [{model: small}, {provider: outside, model: big}]
providers:
  outside: {base_url: "https://api.example.com/v1/", key_file: KEY}
"""
BAD = {
    "no YAML": "products: [",
    "no object": "- a\n- b",
    "an unknown field": "product: {}",
    "no share": "products: {chat: {shares: []}}",
    "a weight below 0": "products: {chat: {shares: [{model: m, weight: -1}]}}",
    "a weight that is no number": "products: {chat: {shares: [{model: m, weight: .nan}]}}",
    "only weights of 0": "products: {chat: {shares: [{model: m, weight: 0}]}}",
    "the same model twice": "products: {chat: {shares: [{model: m}, {model: m}]}}",
    "a name with a blank": "products: {'a b': {shares: [{model: m}]}}",
    "an unknown provider": (
        "products: {c: {shares: [{model: m}], fallbacks: [{model: m, provider: p}]}}"
    ),
    "a provider by file": "providers: {p: {base_url: 'file:///etc/passwd'}}",
    "a key in the URL": "providers: {p: {base_url: 'https://me:secret@example.com'}}",
    "a key file that is not there": (
        "providers: {p: {base_url: 'https://example.com', key_file: /nowhere/key}}"
    ),
    "a Python object": "products: !!python/object/apply:os.system ['true']",
}


def test_a_catalog_is_read(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(GOOD)
    catalog = read_catalog(file)
    assert [share.weight for share in catalog.products["chat"].shares] == [95, 5]
    assert catalog.providers["outside"].base_url == "https://api.example.com"


def test_an_empty_file_is_an_empty_catalog(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text("# nothing yet\n")
    assert not read_catalog(file).products


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_a_catalog_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError):
        CatalogSource(file).open()


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(UnusableCatalog):
        read_catalog(file)


def test_a_bad_file_leaves_the_catalog_as_it_was_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(GOOD.replace("KEY", str(tmp_path / "key")))
    (tmp_path / "key").write_text("sk-1\n")
    source = CatalogSource(file)
    source.open()
    before = source.catalog
    assert source.keys == {"outside": "sk-1"}
    file.write_text("products: {chat: {shares: []}}")
    assert [source.refresh() for _ in range(3)] == [False] * 3
    os.remove(file)
    assert not source.refresh()
    assert source.catalog is before
    assert len(caplog.records) == 2
    file.write_text("products: {other: {shares: [{model: m}]}}")
    assert source.refresh()
    assert list(source.catalog.products) == ["other"]


def test_a_key_that_is_exchanged_is_read(tmp_path: Path) -> None:
    file, key = tmp_path / "catalog.yaml", tmp_path / "key"
    file.write_text(GOOD.replace("KEY", str(key)))
    key.write_text("sk-1")
    source = CatalogSource(file)
    source.open()
    key.write_text("sk-2")
    assert source.refresh()
    assert source.keys == {"outside": "sk-2"}
    key.write_text("two words")
    assert not source.refresh()
    assert source.keys == {"outside": "sk-2"}
