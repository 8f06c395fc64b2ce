"""The open-loop client: connections, one process's share of the load, and the processes."""
