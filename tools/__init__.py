"""Scripts for those who work on Rhizome."""
