"""Other projects' benchmark clients, unmodified, against the router and simulated workers."""
