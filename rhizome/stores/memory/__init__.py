"""The stores inside one process: for a router without Redis, and for tests.

They keep every promise of the protocols but one: nothing outlives the process.
"""
