"""The data plane: bytes from worker to client, read only for what accounting needs."""
