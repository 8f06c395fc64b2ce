"""The tree of files: test folders are packages, and nothing names the machine it was written on."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from tests.meta.sources import ROOT, files, report

MACHINE_PATHS = re.compile(r"(?<![\w.${}])/(?:(?:work|root|Users)/\w|opt/(?:wheels|pypi))")
PACKAGE_SOURCE = re.compile(
    r"(?:index-url|find-links|trusted-host)[\"']?[\s=:,\"']+(?P<place>(?:https?://|file:|/)\S+)"
)
PUBLIC_SOURCES = re.compile(r"https://(?:pypi\.org|download\.pytorch\.org|wheels\.vllm\.ai)/")
CREDENTIALS = re.compile(r"https?://[^\s/\"'{}<>$]+:[^\s/\"'{}<>$@]+@[\w-]+\.")
BINARY = {".gz", ".png", ".ico", ".whl", ".safetensors"}


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {str(PurePosixPath(path).parent) for path in files() if _is_test(path)}
    known = set(files())
    report(
        sorted(folder for folder in folders if f"{folder}/__init__.py" not in known),
        "Add an __init__.py; without it `import router` may find the tests instead:",
    )


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    report(_lines_with(MACHINE_PATHS), "Use a path relative to the project, or a setting:")


def test_packages_come_from_public_sources_only() -> None:
    report(
        [
            line
            for line in _lines_with(PACKAGE_SOURCE)
            if not PUBLIC_SOURCES.match(PACKAGE_SOURCE.search(line)["place"])  # type: ignore[index]  # it was found by this pattern
        ],
        "Name the public index; a mirror belongs into the machine's own pip configuration:",
    )


def test_no_file_holds_a_url_with_a_password() -> None:
    report(
        [line for line in _lines_with(CREDENTIALS) if not line.startswith("tests/")],
        "Take it from the settings, as a secret:",
    )


def _is_test(path: str) -> bool:
    return path.startswith("tests/") and path.endswith(".py")


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in files():
        if PurePosixPath(path).suffix in BINARY:
            continue
        text = (ROOT / path).read_text(encoding="utf-8", errors="replace")
        if not pattern.search(text):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path}:{number}: {line.strip()[:160]}")
    return found
