"""Which worker holds which prefix: block hashes, the index, and the feed of KV events into it."""
