"""What a router itself costs: CPU per request and per token, and added latency, beside peers."""
