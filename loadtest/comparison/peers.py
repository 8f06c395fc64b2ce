"""Programs of other projects, each in a virtual environment of its own, made when first needed.

Promises: the version is pinned, nothing is installed beside the project's own packages, and an
environment that was begun but not finished is made anew. It leaves out how a program is started:
`loadtest.comparison.contenders` and the tests of third-party clients know that.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rhizome.errors import MissingDependency
from rhizome.settings.load import environment_copy

_READY = ".ready"
_INSTALL_TIMEOUT_S = 900.0
_REASON_LINES = 6


@dataclass(frozen=True)
class Peer:
    """One program: what pip is to install, and what is then started."""

    name: str
    version: str
    program: str
    """The console script."""
    before: tuple[str, ...] = ()
    """Installed first and without what they ask for: builds that pip would not choose itself."""
    beside: tuple[str, ...] = ()
    """Installed into the same environment."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        peer.name: peer
        for peer in (
            Peer("smg", "1.13.0", "smg"),
            Peer("vllm-router", "0.1.17", "vllm-router"),
            Peer("aiperf", "0.13.0", "aiperf"),
            Peer("guidellm", "0.8.1", "guidellm", before=("torch==2.13.0+cpu",)),
            Peer(
                "langchain-openai",
                "1.7.3",
                "python",
                beside=("llama-index-llms-openai-like==0.8.1", "schemathesis==4.32.5"),
            ),
        )
    }
)


def peers_directory(state_directory: Path) -> Path:
    """Where the environments are kept."""
    return state_directory.expanduser().absolute() / "peers"


def installed_peer(peer: Peer, directory: Path) -> Path:
    """The program's path; installs it into `directory` unless it is there already.

    Raises `MissingDependency` with pip's own words.
    """
    place = directory / f"{peer.name}-{peer.version}"
    program = place / "bin" / peer.program
    if (place / _READY).exists():
        return program
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    _run(peer, [sys.executable, "-m", "venv", str(place)])
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if peer.before:
        _run(peer, [*pip, "--no-deps", *peer.before])
    _run(peer, [*pip, peer.requirement, *peer.beside])
    (place / _READY).touch()
    return program


def _run(peer: Peer, command: list[str]) -> None:
    environment = environment_copy() | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Otherwise every start of a Python program would compile its packages anew.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        done = subprocess.run(  # noqa: S603 - our own command, pinned requirements
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _missing(peer, f"nothing came of it in {error.timeout:.0f} s") from error
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        raise _missing(peer, "\n".join(lines[-_REASON_LINES:]))


def _missing(peer: Peer, reason: str) -> MissingDependency:
    return MissingDependency(
        f"{peer.requirement} could not be installed: {reason}",
        advice="It is fetched with pip; leave it out, or see that pip can reach its packages.",
    )
