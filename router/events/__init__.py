"""KV events over ZMQ: one subscription per worker rank, from its sockets to its feed."""
