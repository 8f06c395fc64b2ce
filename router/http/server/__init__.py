"""HTTP/1.1 towards clients: connections as protocols, without a stream or a queue in between."""
