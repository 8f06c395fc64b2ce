"""Workers: one engine group each, behind vLLM's own HTTP API, registered under a lease."""
