"""Tests; every folder is a package, so that names like `router` mean the product."""
