"""Clients' keys: known by their hashes only, checked in a time that tells nothing, replaced live.

A key is 256 random bits (`rhizome keys new`), so a plain SHA-256 of it cannot be guessed back. What
is kept is `name: sha256:HEX`; the name is what logs, metrics and accounts may say. Looking a key up
takes the same steps whether it is right, nearly right or wrong, and however many there are: its
hash is hashed once more under a secret of this process before any comparison, so that timing tells
nothing about the hashes that are kept.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

from pydantic import SecretStr

from rhizome.clock import Clock
from rhizome.errors import AuthenticationFailed, SettingsError
from rhizome.settings.tree import RouterSettings
from rhizome.tasks import Tasks

_log = logging.getLogger(__name__)

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}"
KEYS_MAX = 10_000
FILE_BYTES_MAX = 4 * 2**20
TOKEN_BYTES_MAX = 512
FOLLOW_S = 2.0

_LINE = re.compile(rf"({NAME_PATTERN})\s*:\s+(\S+(?:\s+\S+)*)\Z")
_HASH = re.compile(r"sha256:([0-9a-f]{64})\Z")
_ADVICE = "`rhizome keys new NAME` makes a key and the line to store."

Hashes = Mapping[str, tuple[bytes, ...]]
"""SHA-256 hashes by name; one name may have several while a key is exchanged for another."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, by the name of the key."""

    name: str


ANONYMOUS = Principal("anonymous")


class UnusableKeys(ValueError):
    """What is wrong with keys that were read, in words that hold none of them."""


class KeyRing:
    """The keys that are good now.

    An open ring lets everybody in as `anonymous`; a closed one without keys lets in nobody.
    """

    def __init__(self, hashes: Hashes, *, is_open: bool = False) -> None:
        self._secret = secrets.token_bytes(32)
        self._anonymous = ANONYMOUS if is_open else None
        self._known: dict[bytes, tuple[bytes, Principal]] = {}
        self.version = 0
        """Counts up with every change."""
        self.names: tuple[str, ...] = ()
        """Whose keys there are."""
        self.replace(hashes)

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return self._anonymous is not None

    def replace(self, hashes: Hashes) -> None:
        """From now on these are the keys, all at once."""
        self.version += 1
        self._known = {
            self._place(one): (one, Principal(name)) for name, own in hashes.items() for one in own
        }
        self.names = tuple(sorted(hashes))

    def check(self, authorization: bytes | str | None) -> Principal:
        """Who sent the header `Authorization: Bearer KEY`; raises `AuthenticationFailed`."""
        if self._anonymous is not None:
            return self._anonymous
        if isinstance(authorization, str):  # as ASGI servers decode it
            authorization = authorization.encode("latin-1", "replace")
        if not authorization or authorization[:7].lower() != b"bearer ":
            raise AuthenticationFailed("give a key in the header 'Authorization: Bearer KEY'")
        return self.check_key(authorization[7:].strip())

    def check_key(self, key: bytes) -> Principal:
        """Who has the key, for protocols that send it elsewhere; raises `AuthenticationFailed`."""
        if self._anonymous is not None:
            return self._anonymous
        if len(key) <= TOKEN_BYTES_MAX:
            digest = hashlib.sha256(key).digest()
            known = self._known.get(self._place(digest))
            if known is not None and compare_digest(known[0], digest):
                return known[1]
        raise AuthenticationFailed("the key in the header 'Authorization' is not a valid one")

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=16).digest()


class KeyFile:
    """A file of keys that may change while the process runs."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser()
        self._seen: object = None
        self._said = ""

    def read(self) -> Hashes:
        """Its keys now; raises `UnusableKeys`."""
        self._seen = self._signature()
        try:
            with self._path.open("rb") as file:
                content = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise UnusableKeys(f"cannot read {self._path}: {error.strerror}") from error
        if len(content) > FILE_BYTES_MAX:
            raise UnusableKeys(f"{self._path} is longer than {FILE_BYTES_MAX} bytes")
        try:
            return parse_keys(content.decode())
        except UnicodeDecodeError as error:
            raise UnusableKeys(f"{self._path} is not UTF-8 text") from error
        except UnusableKeys as error:
            raise UnusableKeys(f"{self._path}: {error}") from error

    async def follow(self, ring: KeyRing, others: Hashes, clock: Clock) -> None:
        """Keeps the ring as the file says, and `others` beside it.

        A file that cannot be used changes nothing; that is said once for each such file.
        """
        while True:
            await clock.sleep(FOLLOW_S)
            if self._signature() != self._seen:
                self.refresh(ring, others)

    def refresh(self, ring: KeyRing, others: Hashes) -> bool:
        """Reads the file into the ring; False when it cannot be used and the old keys stay."""
        try:
            ring.replace(joined(self.read(), others))
        except UnusableKeys as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.error("the keys stay as they were: %s", error)
            return False
        self._said = ""
        _log.info("the keys of %d names are good now, as %s has them", len(ring.names), self._path)
        return True

    def _signature(self) -> object:
        """What changes when the file does; a link (as Kubernetes makes) is followed."""
        try:
            found = self._path.stat()
        except OSError as error:
            return error.errno
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def parse_keys(text: str) -> dict[str, tuple[bytes, ...]]:
    """Hashes by name, from lines `name: sha256:HEX [sha256:HEX ...]`; `#` begins a comment.

    Such a file is also a YAML mapping. Raises `UnusableKeys` naming the line, never its content.
    """
    hashes: dict[str, tuple[bytes, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        written = line.partition("#")[0].strip()
        if not written or written == "---":
            continue
        found = _LINE.match(written)
        if found is None:
            raise UnusableKeys(f"line {number} is not 'name: sha256:HEX'")
        name, words = found[1], found[2].split()
        if name in hashes:
            raise UnusableKeys(f"line {number} has a name that stands above already")
        hashes[name] = _digests(words, f"line {number}")
    return joined(hashes)


def joined(*parts: Hashes) -> dict[str, tuple[bytes, ...]]:
    """All keys together; raises `UnusableKeys` if two names share one, or there are too many."""
    hashes: dict[str, tuple[bytes, ...]] = {}
    owners: dict[bytes, str] = {}
    for name, own in (pair for part in parts for pair in part.items()):
        if name == ANONYMOUS.name:
            raise UnusableKeys(f"the name {ANONYMOUS.name!r} is for those without a key")
        hashes[name] = (*hashes.get(name, ()), *own)
        for one in own:
            if owners.setdefault(one, name) != name:
                raise UnusableKeys(f"{name!r} and {owners[one]!r} have the same key")
    if len(owners) > KEYS_MAX:
        raise UnusableKeys(f"there are more than {KEYS_MAX} keys")
    return hashes


def configured_keys(
    raw: Iterable[SecretStr], named: Mapping[str, str], raw_name: str = "api-key"
) -> dict[str, tuple[bytes, ...]]:
    """Keys from the settings: hashes by name, and raw ones named `raw_name-1` and on.

    Raises `SettingsError`.
    """
    try:
        hashes = {name: _digests(text.split(), repr(name)) for name, text in named.items()}
        for number, key in enumerate(raw, 1):
            digest = hashlib.sha256(key.get_secret_value().encode()).digest()
            if any(digest in own for own in hashes.values()):
                continue
            hashes[f"{raw_name}-{number}"] = (digest,)
        return joined(hashes)
    except UnusableKeys as error:
        raise SettingsError(f"the keys in the settings: {error}", advice=_ADVICE) from error


def read_key_file(path: Path, others: Hashes) -> tuple[KeyFile, dict[str, tuple[bytes, ...]]]:
    """The file and all keys, at the start of a process; raises `SettingsError`."""
    file = KeyFile(path)
    try:
        return file, joined(file.read(), others)
    except UnusableKeys as error:
        raise SettingsError(f"the file of keys: {error}", advice=_ADVICE) from error


def open_ring(settings: RouterSettings, tasks: Tasks, clock: Clock) -> KeyRing:
    """Clients' keys, followed where they are in a file; open where none are configured.

    Raises `SettingsError`.
    """
    hashes = configured_keys(settings.api_keys, settings.keys)
    if settings.keys_file is None:
        return KeyRing(hashes, is_open=not hashes)
    file, everything = read_key_file(settings.keys_file, hashes)
    ring = KeyRing(everything)
    tasks.start("keys", file.follow(ring, hashes, clock))
    return ring


def _digests(words: Iterable[str], where: str) -> tuple[bytes, ...]:
    found = [_HASH.match(word) for word in words]
    if not found or not all(found):
        raise UnusableKeys(f"{where} has something else than 'sha256:' and 64 hex digits")
    return tuple(bytes.fromhex(one[1]) for one in found if one is not None)
