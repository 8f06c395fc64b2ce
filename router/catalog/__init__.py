"""Models as products: names that clients use, and what stands behind each, from one file.

`entries` is what the file may say, `resolving` turns a name into a plan (pure), `source` follows
the file.
"""
