"""The router's front: requests for engines go straight to the service, all others to the app.

The choice is made by method and path, before anything else is looked at (ADR 10).
"""

from __future__ import annotations

import re

from rhizome.errors import MalformedHttp
from rhizome.settings.tree import HttpSettings
from rhizome.tasks import Tasks
from router.http.generation import GenerationExchange, Serving
from router.http.server.app import App, AppExchange
from router.http.server.connection import ClientConnection, Shared
from router.http.server.exchange import Exchange, Head
from router.http.surface import ENDPOINTS
from router.relay.deadlines import Deadlines

_URL = re.compile(rb"https?://([\w.~%!$&'()*+,;=:\[\]-]+)([/?][^#]*|)", re.IGNORECASE)
"""Without a user's name, which nobody may send, and without a fragment."""
_ENDPOINT_OF = {endpoint.path.encode(): endpoint for endpoint in ENDPOINTS}


def api_front(serving: Serving, app: App, settings: HttpSettings) -> Shared:
    """For connections to the API."""

    def take(connection: ClientConnection, head: Head) -> Exchange:
        target = head.target
        if head.method == b"POST":
            endpoint = _ENDPOINT_OF.get(target) or _ENDPOINT_OF.get(target.partition(b"?")[0])
            if endpoint is not None:
                return GenerationExchange(connection, head, endpoint, serving)
        if not target.startswith(b"/"):
            _take_host(head)
            return take(connection, head)
        return AppExchange(connection, head, app, serving.tasks, serving.deadlines)

    return Shared(settings, serving.deadlines, take)


def app_front(app: App, settings: HttpSettings, tasks: Tasks, deadlines: Deadlines) -> Shared:
    """For connections to an app alone, such as the metrics page."""

    def take(connection: ClientConnection, head: Head) -> Exchange:
        if not head.target.startswith(b"/"):
            _take_host(head)
        return AppExchange(connection, head, app, tasks, deadlines)

    return Shared(settings, deadlines, take)


def _take_host(head: Head) -> None:
    """Makes a target that is a whole URL a path, as clients of proxies send it; the URL's host is
    the one that counts (RFC 9112, 3.2.2)."""
    url = _URL.fullmatch(head.target)
    if url is None:
        raise MalformedHttp("the request's target must be a path, or an http or https URL")
    host, rest = url.groups()
    head.target = rest if rest.startswith(b"/") else b"/" + rest
    head.headers = [one for one in head.headers if one[0] != b"host"]
    head.headers.append((b"host", host))
