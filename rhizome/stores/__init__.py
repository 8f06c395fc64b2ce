"""Shared and durable state behind small protocols, each on Redis and in memory.

Every operation is bounded in time (`redis.command_timeout_s`) and raises `StoreUnavailable` when
the store cannot be reached; the caller decides whether to go on without it (interactive traffic)
or to refuse (durable work).
"""
