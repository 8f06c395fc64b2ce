"""The cluster: what should run, where, and how much of it; never in the path of a request."""
