"""What to try once the cluster is ready."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.local.layout import ClusterFiles
from cluster.local.readiness import router_url
from rhizome.settings.tree import Settings


def next_steps(settings: Settings, files: ClusterFiles) -> Iterator[str]:
    """Lines for people: commands that work as they are."""
    url = router_url(settings.router)
    rhizome = program()
    name = "" if settings.name == "default" else f" --name {settings.name}"
    yield ""
    yield f"The cluster {settings.name!r} is ready at {url}"
    if settings.models:
        body = {
            "model": settings.models[0].name,
            "messages": [{"role": "user", "content": "Hello!"}],
            "max_tokens": 32,
        }
        key = ' -H "Authorization: Bearer $API_KEY"' if settings.router.api_keys else ""
        yield f"  curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' \\"
        yield f"    -d {shlex.quote(json.dumps(body))}"
    rows = {
        f"{rhizome} chat{name}": "talk to a model, and see which worker answers",
        f"{rhizome} status{name}": "the fleet as a table",
        f"{rhizome} explain{name}": "why requests went where they went",
        f"{url}/docs": "the API's pages",
        f"{rhizome} down{name}": "end it",
        str(files.logs): "the logs",
    }
    width = max(map(len, rows))
    for what, meaning in rows.items():
        yield f"  {what:<{width}}  {meaning}"


def program() -> str:
    """How to call the command from here: by its name if that finds it, else by its path."""
    own = Path(sys.executable).with_name("rhizome")
    found = shutil.which("rhizome")
    if found is not None and Path(found).resolve() == own.resolve():
        return "rhizome"
    here = Path.cwd()
    return str(own.relative_to(here) if own.is_relative_to(here) else own)
