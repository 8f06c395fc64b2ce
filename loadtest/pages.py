"""Where pages are made: templates beside one style sheet, escaped, with nothing left undefined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import jinja2

_DATA = Path(__file__).parent / "data"
_NO_FILTERS: Mapping[str, Callable[..., str]] = MappingProxyType({})


def page_template(
    name: str, filters: Mapping[str, Callable[..., str]] = _NO_FILTERS
) -> jinja2.Template:
    """The template of that file name; its page needs nothing but itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DATA),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
