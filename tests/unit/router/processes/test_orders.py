"""What a process is told on its standard input."""

from __future__ import annotations

import io

import pytest

from rhizome.errors import SettingsError
from router.processes.orders import Order, plain, read_order, written
from tests.support.serving import settings_with


def _order(**changes: object) -> Order:
    settings = settings_with(redis__url="redis://:a-password@h:1/0", router__api_keys=("k" * 20,))
    fields: dict[str, object] = {
        "number": 3,
        "settings": plain(settings),
        "api_fd": 5,
        "metrics_fd": 6,
        "admin_fd": None,
        "siblings": "/tmp/x",  # noqa: S108 - a name
        "settle_s": 1.5,
    }
    return Order(**{**fields, **changes})  # type: ignore[arg-type]  # by name


def test_settings_with_their_secrets_survive_the_pipe() -> None:
    order = read_order(io.BytesIO(written(_order())))
    settings = order.typed_settings()
    assert settings.redis.url is not None
    assert settings.redis.url.get_secret_value() == "redis://:a-password@h:1/0"
    assert settings == _order().typed_settings()


def test_settings_that_are_none_are_refused() -> None:
    with pytest.raises(SettingsError):
        _order(settings={"router": {"port": "x"}}).typed_settings()
