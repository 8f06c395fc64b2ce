"""Files and batches: OpenAI's API for work that may wait, and the runner that does it.

Work is durable: what the API has accepted survives routers and runners that die, and every line
ends with exactly one result. It needs a shared store and refuses work while that is away.
"""
