"""Media by URL: refused unless hosts are listed; then fetched here, checked, and sent as data.

Engines would fetch whatever a client names, from inside the cluster's network. So none of them
ever sees a URL: the router replaces each by the bytes behind it, or refuses the request.
"""
