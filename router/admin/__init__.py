"""The admin API: what operators see and do, on a port and with keys of its own."""
