"""The cluster of `rhizome up`: every process of Rhizome on one machine, under one supervisor."""
