"""The same fleet and the same requests under Rhizome and under other routers, in turn."""
