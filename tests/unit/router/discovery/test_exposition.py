"""A few samples out of a large page."""

from __future__ import annotations

from router.discovery.exposition import Sample, SampleReader

PAGE = r"""# HELP a A metric
a 1
ab{x="1"} 2.5
a{x="say \"hi\", }\\ \n",y="é"} 3e2 1700000000
a{x="unreadable"} many
b 4
""".encode()


def test_only_the_asked_metrics_are_read() -> None:
    names = [sample.name for sample in SampleReader(("a", "b")).read(PAGE)]
    assert names == ["a", "a", "b"]


def test_labels_are_unescaped() -> None:
    labelled = SampleReader(["a"]).read(PAGE)[1]
    assert labelled == Sample("a", {"x": 'say "hi", }\\ \n', "y": "é"}, 300.0)


def test_a_name_is_not_a_pattern() -> None:
    assert SampleReader(["a."]).read(b"ab 1\n") == []


def test_a_page_of_noise_gives_nothing() -> None:
    assert SampleReader(["a"]).read(b"\x00\xff" * 1000 + b"a{{{{ \n a 1\na") == []
