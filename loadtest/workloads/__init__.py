"""What is asked of a fleet, and when: traces, generators, arrivals and their shaping.

A workload is symbolic: prompts are made of segments, equal keys meaning equal tokens. A simulation
counts blocks from them without a tokenizer; `loadtest.prompts` makes text or token ids of them.
"""
