"""How far a target's KV events are believed: EXACT, DEGRADED or FALLBACK, found out by checking.

`observations` says what was seen of one request and what it proves, `causes` names what is
probably wrong, `machine` moves one target between the states, `book` keeps all targets.
"""
