"""The stores on a Redis or Valkey server (7.0 or later).

Every atomic step is one Lua script; leases end by the server's clock; all keys of a namespace share
one hash tag, so they live in one slot of a cluster.
"""
