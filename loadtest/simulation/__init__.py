"""A whole fleet under a virtual clock: the router's own decisions, simulated engines, one process.

No task, no socket and no real time is in it, so a seed and a workload give one result, bit for bit.
"""
