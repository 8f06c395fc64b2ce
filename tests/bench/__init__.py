"""Measurements to be read, not tests to pass: run them by hand on a quiet machine."""
