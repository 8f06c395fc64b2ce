"""The `rhizome` command."""
