"""What a catalog says: products with their shares and fallbacks, and outside providers.

A product's name may be that of a served model; its shares name served models, never products, so
that no name leads to itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PRODUCTS_MAX = 1000
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,127}$")]
Sticky = Literal["session", "key", "request"]


class Entry(BaseModel):
    """A part of the catalog: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Share(Entry):
    """One of the models behind a name."""

    model: Name
    """A model that workers serve."""
    weight: float = Field(default=1.0, ge=0, le=1e6)
    """Its part of the requests, relative to the others' weights; 0: none."""


class Fallback(Entry):
    """Where a request goes that the fleet cannot serve in time."""

    model: Name
    """The name there."""
    provider: Name | None = None
    """An outside provider; absent: another model of the fleet."""


class Product(Entry):
    """A model as clients see it."""

    shares: Annotated[tuple[Share, ...], Field(min_length=1, max_length=64)]
    """The models behind the name."""
    sticky: Sticky = "session"
    """What keeps its share: a session (or else a key), a key, or nothing (each request anew)."""
    fallbacks: Annotated[tuple[Fallback, ...], Field(max_length=8)] = ()
    """In the order in which they are tried."""

    @property
    def models(self) -> frozenset[str]:
        """All names that requests for the product may get."""
        return frozenset(
            {share.model for share in self.shares} | {one.model for one in self.fallbacks}
        )

    @model_validator(mode="after")
    def _shares_make_sense(self) -> Product:
        names = [share.model for share in self.shares]
        if len(set(names)) < len(names):
            raise ValueError("a model has two shares of one product")
        if not any(share.weight for share in self.shares):
            raise ValueError("every share has the weight 0")
        return self


class Provider(Entry):
    """An OpenAI-compatible service outside the fleet. What is sent there leaves the cluster."""

    base_url: str
    """Its address up to `/v1`, which is left out: `https://api.example.com`."""
    key_file: Path | None = None
    """The file with its bearer key, read anew when it changes."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http(s) URL")
        if parts.username or parts.query or parts.fragment:
            raise ValueError("must have no user, query or fragment; the key goes into key_file")
        return value.rstrip("/").removesuffix("/v1")


class Catalog(Entry):
    """The whole file."""

    products: Annotated[dict[Name, Product], Field(max_length=PRODUCTS_MAX)] = {}
    """By the name that clients use."""
    providers: Annotated[dict[Name, Provider], Field(max_length=64)] = {}
    """By a name of your own."""

    @model_validator(mode="after")
    def _providers_exist(self) -> Catalog:
        for name, product in self.products.items():
            for fallback in product.fallbacks:
                if fallback.provider is not None and fallback.provider not in self.providers:
                    raise ValueError(
                        f"{name!r} falls back to {fallback.provider!r}, which is no provider"
                    )
        return self
