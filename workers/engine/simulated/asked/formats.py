"""The formats of JSON schemas, each as an expression for some of its texts."""

from __future__ import annotations

_HEX = "[0-9a-f]"
_DATE = "20[0-4][0-9]-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z"
_HOST = "[a-z]{3,8}[.](example|test)"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": "P[1-9][0-9]?D",
    "email": f"[a-z]{{3,8}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": "10[.][1-9][0-9]?[.][1-9][0-9]?[.][1-9][0-9]?",
    "ipv6": f"2001:db8:{_HEX}{{4}}::{_HEX}{{1,4}}",
    "uri": f"https://{_HOST}/[a-z]{{3,8}}",
    "uri-reference": "/[a-z]{3,8}",
    "uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-4{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}",
    "json-pointer": "/[a-z]{3,8}",
    "relative-json-pointer": "1/[a-z]{3,8}",
    "uri-template": "/[a-z]{3,8}/[{]id[}]",
}
