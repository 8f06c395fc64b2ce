"""One set of requests for every engine that claims vLLM's contract, and how answers are compared.

`rows` is the set, `play` sends it and watches the KV events, `compare` says where two answers
differ in what a client or a router could see.
"""
