"""One tree of typed settings, read once at the start of a process and handed out in slices."""
