"""The ground that every other package stands on; it imports none of them (its `cli` excepted)."""

__version__ = "0.1.0"
