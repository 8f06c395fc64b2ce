"""Responses that are stored: continued, followed, cancelled, forgotten."""
