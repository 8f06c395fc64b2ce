"""Prompts for requests: within bounds of time and size, and bytes where ids cannot be known.

`Rendering` runs `rhizome.render` for the router; what it falls back to is in `approximate`.
"""
