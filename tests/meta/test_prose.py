"""Every module says why it exists, and every exception to a rule says why it is one."""

from __future__ import annotations

import ast
import re

from tests.meta.sources import PACKAGES, comments, everything, product, report

EXEMPTION = re.compile(
    r"#\s*(?:noqa(?::\s*[A-Z]+[0-9]+(?:\s*,\s*[A-Z]+[0-9]+)*)?|type:\s*ignore(?:\[[\w\-, ]+\])?|"
    r"pragma:\s*no cover|nosec\S*)(?P<reason>.*)"
)
REASON = re.compile(r"\s*(?:#|-{1,2}|:|\u2013)?\s*\w+.*")


def test_every_module_has_a_docstring() -> None:
    report(
        [
            source.path
            for source in everything()
            if source.within(*PACKAGES, "tests/support", "tests/meta", "tools")
            and source.text.strip()
            and not ast.get_docstring(source.tree)
        ],
        "Say at the top why the module exists, what it promises and what it leaves out:",
    )


def test_every_package_has_a_docstring() -> None:
    report(
        [s.path for s in product() if s.path.endswith("__init__.py") and not s.text.strip()],
        "Say at the top what the package is for:",
    )


def test_every_exemption_has_its_reason() -> None:
    report(
        [
            f"{place}: {comment}"
            for place, comment in comments()
            if (found := EXEMPTION.match(comment)) and not REASON.match(found["reason"])
        ],
        "Write the reason behind it, e.g. `# noqa: S603 - our own program`:",
    )


def test_nothing_is_left_to_be_done() -> None:
    later = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    report(
        [f"{place}: {comment}" for place, comment in comments() if later.search(comment)],
        "Do it now, or open an issue:",
    )
