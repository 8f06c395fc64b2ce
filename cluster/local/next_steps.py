"""What to try once the cluster is ready."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from cluster.local.layout import ClusterFiles
from cluster.local.readiness import router_url
from rhizome.settings.tree import Settings


def next_steps(settings: Settings, files: ClusterFiles) -> Iterator[str]:
    """Lines for people: commands that work as they are."""
    url = router_url(settings.router)
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
    yield f"  rhizome chat{name}                  talk to a model, and see which worker answers"
    yield f"  rhizome status{name}                the fleet as a table"
    yield f"  {url}/docs         the API's pages"
    yield f"  {files.logs}    the logs"
