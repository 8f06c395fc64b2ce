"""Where a local cluster keeps its files.

`state_directory/models` holds models for all clusters; `state_directory/clusters/<name>` what
belongs to one. Directories are for the owner only, files with secrets have mode 0600.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

# Ray puts sockets below its directory, in `session_<date>_<pid>/sockets/plasma_store`, and a Unix
# socket's path has at most 107 bytes.
_RAY_DIRECTORY_BYTES_MAX = 40


def models_directory(state_directory: Path) -> Path:
    """Where models that Rhizome made or fetched are kept, shared by all clusters."""
    return state_directory.expanduser() / "models"


@dataclass(frozen=True)
class ClusterFiles:
    """The files of one cluster; nothing is touched until `make`."""

    root: Path

    @classmethod
    def of(cls, state_directory: Path, name: str) -> ClusterFiles:
        return cls(state_directory.expanduser().absolute() / "clusters" / name)

    @property
    def settings(self) -> Path:
        """What every process of the running cluster reads; holds secrets."""
        return self.root / "settings.yaml"

    @property
    def asked(self) -> Path:
        """What a detached supervisor was asked to run; holds secrets."""
        return self.root / "asked.yaml"

    @property
    def record(self) -> Path:
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def admin_key(self) -> Path:
        """Key of the router's admin API, for commands on this machine."""
        return self.root / "admin-key"

    @property
    def ray_token(self) -> Path:
        return self.root / "ray-token"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def ray_directory(self) -> Path:
        """A directory for Ray's session; a short one in the temporary directory if need be."""
        inside = self.root / "ray"
        if len(os.fsencode(inside)) <= _RAY_DIRECTORY_BYTES_MAX:
            return inside
        return Path(tempfile.mkdtemp(prefix="rz-ray-"))

    def make(self) -> None:
        for directory in (self.root, self.logs):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)


def write_private(path: Path, text: str) -> None:
    """Writes the file whole or not at all, readable by its owner only."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    Path(partial).rename(path)
