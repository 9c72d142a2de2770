"""Wrong settings are refused before anything is opened, by an error that names them."""

from __future__ import annotations

from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError


@pytest.mark.parametrize("name", ["connect_timeout_seconds", "drain_seconds"])
@pytest.mark.parametrize("seconds", ["10", -1, None, True, float("nan")])
def test_a_duration_is_a_number_of_seconds(name: str, seconds: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^{name} must be a number of seconds of at least 0 and is "):
        DBOS("postgresql://localhost/shop", **{name: seconds})


def test_a_duration_may_be_without_end() -> None:
    DBOS("postgresql://localhost/shop", drain_seconds=float("inf"))


def test_a_client_checks_its_timeout_too() -> None:
    with pytest.raises(InvalidArgumentError, match="connect_timeout_seconds"):
        DBOSClient("postgresql://localhost/shop", connect_timeout_seconds=-1)


def test_a_misspelt_option_is_one_of_dbos() -> None:
    options: dict[str, Any] = {"max_runing": 3}
    with pytest.raises(TypeError, match=r"^DBOS\(\) got an unexpected keyword argument 'max_runing'"):
        DBOS("postgresql://localhost/shop", **options)


@pytest.mark.parametrize("url", [b"postgresql://localhost/shop", 5])
async def test_the_url_of_a_client_is_a_str(url: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="The URL of the database must be a str"):
        async with DBOSClient(url):
            pass
