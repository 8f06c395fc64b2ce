"""How workers are found (registry, static list) and watched (health and load)."""
