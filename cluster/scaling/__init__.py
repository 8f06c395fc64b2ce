"""How many workers a model should have, and which go first: pure decisions."""
