"""Formats that cross a socket: vLLM's KV events and the frames around them."""
