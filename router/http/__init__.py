"""The API surface: routes, bodies, and the border where errors become responses."""
