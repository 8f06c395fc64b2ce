"""Who gets in, who waits and who is refused: pure bookkeeping, timed by its caller."""
