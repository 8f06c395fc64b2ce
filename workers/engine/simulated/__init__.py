"""The simulated engine: vLLM's contract and vLLM's scheduling rules, without a model.

`profile` says how fast an engine is, `cache` and `scheduler` are its pure heart (no clock, no I/O,
no chance), `tokens` says what it would generate. They run behind an HTTP server and, unchanged,
under a virtual clock.
"""
