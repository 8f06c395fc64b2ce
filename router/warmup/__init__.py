"""Warm-up: a worker that comes with an empty cache gets the hottest prefixes before requests."""
