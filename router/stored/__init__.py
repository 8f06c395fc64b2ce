"""Stored responses: `previous_response_id`, reading back, and work in the background.

Engines forget a response with its request. So the router keeps what clients may come back to, in
Redis, and gives the engine the whole conversation each time.
"""
