from __future__ import annotations

import pytest

from rhizome.errors import PortInUse, SettingsError
from workers.addresses import http_url, listen_on, reachable_host


def test_port_zero_takes_a_free_one_and_a_taken_one_is_named() -> None:
    with listen_on("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        assert port > 0
        with pytest.raises(PortInUse, match=str(port)):
            listen_on("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        listen_on("192.0.2.1", 0)


def test_only_a_wildcard_is_replaced_by_a_real_address() -> None:
    assert reachable_host("10.1.2.3") == "10.1.2.3"
    assert reachable_host("0.0.0.0") != "0.0.0.0"  # noqa: S104 - compared, not bound


def test_an_ipv6_address_gets_brackets() -> None:
    assert http_url("::1", 80) == "http://[::1]:80"
    assert http_url("host", 80) == "http://host:80"
