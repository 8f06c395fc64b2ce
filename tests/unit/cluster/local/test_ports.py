import socket
from collections.abc import Iterator

import pytest

from cluster.local.ports import free_port, port_is_free, port_or_free, require_port
from rhizome.errors import PortInUse, SettingsError

HOST = "127.0.0.1"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(1)
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_with_its_number_and_the_flag(taken_port: int) -> None:
    with pytest.raises(PortInUse) as caught:
        require_port(HOST, taken_port, "--port")
    assert str(taken_port) in caught.value.message
    assert "--port" in caught.value.advice


def test_a_free_port_is_accepted_and_left_free() -> None:
    port = free_port(HOST, frozenset())
    require_port(HOST, port, "--port")
    assert port_is_free(HOST, port)


def test_a_host_that_is_not_this_machine_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"203\.0\.113\.1"):
        require_port("203.0.113.1", 8000, "--port")


def test_the_preferred_port_is_taken_when_it_is_free() -> None:
    port = free_port(HOST, frozenset())
    assert port_or_free(HOST, port, frozenset()) == port


def test_another_port_is_chosen_when_the_preferred_one_is_taken(taken_port: int) -> None:
    chosen = port_or_free(HOST, taken_port, frozenset())
    assert chosen != taken_port
    assert port_is_free(HOST, chosen)


def test_a_port_promised_to_another_process_is_not_chosen_again() -> None:
    port = free_port(HOST, frozenset())
    assert port_or_free(HOST, port, frozenset({port})) != port
