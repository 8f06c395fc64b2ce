"""A worker given by hand: its URL, and what cannot be asked over HTTP.

`URL[,events=ENDPOINT][,replay=ENDPOINT][,topic=TOPIC][,curve=KEY][,key-file=PATH]`

With `events=off` and `tokenizer=off` a worker is routed in approximate mode, whatever it tells of
itself. `eagle=on` says that its engine speculates with EAGLE or MTP heads, `chunk=TOKENS` that its
model has chunked local attention: neither can be asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rhizome.errors import SettingsError

_SYNTAX = "URL[,events=ENDPOINT][,replay=ENDPOINT][,topic=TOPIC][,curve=KEY][,key-file=PATH]"
_OPTIONS = ("events", "replay", "topic", "curve", "tokenizer", "eagle", "chunk", "key", "key-file")
OFF = "off"
ON = "on"
_KEY_BYTES_MAX = 4096
_CURVE_KEY_LENGTH = 40


@dataclass(frozen=True, slots=True)
class StaticWorker:
    """What was said of a worker; what it says itself comes later."""

    url: str
    """`http://host:port`, no trailing slash."""
    events: str | None = None
    """The ZMQ endpoint of rank 0; further ranks count its port up. `off`: read none, not even
    those that the worker tells of."""
    replay: str | None = None
    topic: str = ""
    curve: str | None = None
    """The event sockets' CurveZMQ public key (Z85); absent: they are plain."""
    tokenizer: bool = True
    """Whether the model's directory, if the worker names one that is here, gives the tokenizer."""
    eagle: bool = False
    """Whether its engine computes the last block of a cached prefix again."""
    chunk_tokens: int | None = None
    """The size of a chunk of its chunked local attention."""
    key: str | None = field(default=None, repr=False)
    """The bearer key of its HTTP app."""

    @property
    def worker_id(self) -> str:
        """`host:port`: what tells static workers apart."""
        return urlsplit(self.url).netloc

    @property
    def host(self) -> str:
        """The URL's host as it stands in an endpoint, an IPv6 address in brackets."""
        host = urlsplit(self.url).hostname or ""
        return f"[{host}]" if ":" in host else host


def parse_static_worker(text: str) -> StaticWorker:
    """Reads one worker; raises `SettingsError` that names the wrong part."""
    url, *parts = [part.strip() for part in text.split(",")]
    return static_worker(url, _options(url, parts))


def static_worker(url: str, options: Mapping[str, str]) -> StaticWorker:
    """A worker by its URL and its options; raises `SettingsError` that names the wrong part."""
    for name in ("events", "replay"):
        if name in options and (name, options[name]) != ("events", OFF):
            _check_endpoint(url, name, options[name])
    if "events" not in options and {"replay", "topic", "curve"} & set(options):
        raise _wrong(url, "`replay`, `topic` and `curve` need `events`")
    if options.get("events") == OFF and {"replay", "topic", "curve"} & set(options):
        raise _wrong(url, "`replay`, `topic` and `curve` need an endpoint of events")
    if options.get("tokenizer", OFF) != OFF:
        raise _wrong(url, "`tokenizer` can only be `off`")
    if options.get("eagle", ON) != ON:
        raise _wrong(url, "`eagle` can only be `on`")
    if len(options.get("curve", "-" * _CURVE_KEY_LENGTH)) != _CURVE_KEY_LENGTH:
        raise _wrong(url, f"`curve` must be a public key of {_CURVE_KEY_LENGTH} characters")
    return StaticWorker(
        url=_checked_url(url),
        events=options.get("events"),
        replay=options.get("replay"),
        topic=options.get("topic", ""),
        curve=options.get("curve"),
        tokenizer="tokenizer" not in options,
        eagle="eagle" in options,
        chunk_tokens=_chunk_tokens(url, options),
        key=_key(url, options),
    )


def _options(url: str, parts: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if name not in _OPTIONS:
            nearest = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.0)
            raise _wrong(url, f"unknown option {name!r}; the nearest known one is {nearest[0]!r}")
        if name in options:
            raise _wrong(url, f"the option {name!r} is given twice")
        if not equals or not value:
            raise _wrong(url, f"the option {name!r} needs a value")
        options[name] = value
    return options


def parse_static_workers(texts: tuple[str, ...]) -> tuple[StaticWorker, ...]:
    """Reads all; raises `SettingsError` also where two are the same."""
    workers = tuple(parse_static_worker(text) for text in texts)
    seen: set[str] = set()
    for worker in workers:
        if worker.worker_id in seen:
            raise _wrong(worker.url, "the worker is given twice")
        seen.add(worker.worker_id)
    return workers


def _chunk_tokens(url: str, options: Mapping[str, str]) -> int | None:
    if "chunk" not in options:
        return None
    text = options["chunk"]
    if not (text.isascii() and text.isdigit() and int(text)):
        raise _wrong(url, f"`chunk` must be a number of tokens, not {text!r}")
    return int(text)


def _key(url: str, options: Mapping[str, str]) -> str | None:
    """The key itself, or what the key file holds: a file keeps it out of the process list."""
    if "key-file" not in options:
        return options.get("key")
    if "key" in options:
        raise _wrong(url, "give `key` or `key-file`, not both")
    file = Path(options["key-file"]).expanduser()
    try:
        key = file.read_bytes()[:_KEY_BYTES_MAX].decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(url, f"cannot read the key file {file}: {error}") from error
    if not key:
        raise _wrong(url, f"the key file {file} is empty")
    return key


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _wrong(url, f"the URL is not valid: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _wrong(url, "the URL must be http://host:port or https://host:port")
    if parts.username is not None or parts.password is not None:
        # The message must not repeat what may be a password.
        raise _wrong(parts.hostname, "put the key into `key=`, not into the URL")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _wrong(url, "the URL must have no path: workers are asked for /v1/models and others")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _check_endpoint(url: str, name: str, endpoint: str) -> None:
    scheme, separator, address = endpoint.partition("://")
    if scheme == "ipc" and separator and address:
        return
    host, colon, port = address.rpartition(":")
    if scheme == "tcp" and host == "*":
        raise _wrong(
            url,
            f"`{name}` must name the engine's host: it binds, and the router connects to it",
        )
    port_is_valid = port.isascii() and port.isdigit() and 0 < int(port) < 65_536
    if scheme != "tcp" or not separator or not host or not colon or not port_is_valid:
        raise _wrong(url, f"`{name}` must be tcp://host:port or ipc://path, not {endpoint!r}")


def _wrong(url: str, what: str) -> SettingsError:
    return SettingsError(f"worker {url!r}: {what}", advice=f"Give a worker as {_SYNTAX}.")
