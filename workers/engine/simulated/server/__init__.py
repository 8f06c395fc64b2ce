"""The simulated engine behind HTTP and ZMQ, in vLLM 0.32's words.

`http` moves bytes, `bodies` reads requests, `words` knows the tokenizer, `core` runs a scheduler
against the clock, `answers` writes what comes of it, `events` publishes the cache, `faults` breaks
things on demand, and `app` ties them to paths.
"""
