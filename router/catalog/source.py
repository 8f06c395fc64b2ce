"""The catalog's file, followed while the process runs: a bad one is refused whole and said once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from pydantic import ValidationError

from rhizome.clock import Clock
from rhizome.errors import SettingsError
from router.catalog.entries import Catalog

_log = logging.getLogger(__name__)
FILE_BYTES_MAX = 4 * 2**20
KEY_CHARS_MAX = 4096
FOLLOW_S = 1.0


class UnusableCatalog(ValueError):
    """What is wrong with a catalog's file."""


class CatalogSource:
    """The catalog that is good now."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path.expanduser() if path is not None else None
        self._seen: object = None
        self._said = ""
        self.catalog = Catalog()
        """Replaced as a whole, never changed."""
        self.keys: Mapping[str, str] = {}
        """Bearer keys of the providers that have one; never log them."""

    def open(self) -> None:
        """Reads the file for the first time; raises `SettingsError`."""
        if self._path is None:
            return
        try:
            self._take()
        except UnusableCatalog as error:
            raise SettingsError(
                f"router.catalog_file: {error}", advice="docs/api.md shows a catalog."
            ) from error

    async def follow(self, clock: Clock, looked: Callable[[bool], None]) -> None:
        """Keeps `catalog` as the file says; tells whether each changed file could be used."""
        while self._path is not None:
            await clock.sleep(FOLLOW_S)
            if self._signature() != self._seen:
                looked(self.refresh())

    def refresh(self) -> bool:
        """Takes the file; False when it cannot be used and the catalog stays as it was."""
        try:
            self._take()
        except UnusableCatalog as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.error("the catalog stays as it was: %s", error)
            return False
        self._said = ""
        _log.info("the catalog has %d products now", len(self.catalog.products))
        return True

    def _take(self) -> None:
        assert self._path is not None
        self._seen = self._signature()
        catalog = read_catalog(self._path)
        self.keys = _read_keys(catalog)
        self.catalog = catalog
        self._seen = self._signature()

    def _signature(self) -> object:
        """What changes when one of the files does; a link (as Kubernetes makes) is followed."""
        assert self._path is not None
        providers = self.catalog.providers.values()
        keys = (one.key_file for one in providers if one.key_file is not None)
        return [_stamp(path) for path in (self._path, *keys)]


def _stamp(path: Path) -> object:
    try:
        found = path.expanduser().stat()
    except OSError as error:
        return error.errno
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read_keys(catalog: Catalog) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name, provider in catalog.providers.items():
        if provider.key_file is None:
            continue
        try:
            key = provider.key_file.expanduser().read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UnusableCatalog(f"cannot read the key of the provider {name!r}") from error
        if not key.isprintable() or not 0 < len(key) <= KEY_CHARS_MAX or " " in key:
            raise UnusableCatalog(f"the key file of the provider {name!r} holds no key")
        keys[name] = key
    return keys


def read_catalog(path: Path) -> Catalog:
    """A catalog from a YAML or JSON file; raises `UnusableCatalog`."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UnusableCatalog(f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise UnusableCatalog(f"{path} is longer than {FILE_BYTES_MAX} bytes")
    try:
        return Catalog.model_validate(yaml.safe_load(content) or {})
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UnusableCatalog(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UnusableCatalog(f"{path}: {where}: {first['msg']}") from error
