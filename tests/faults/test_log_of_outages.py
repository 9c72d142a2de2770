"""What the log says of a database that is lost again and again."""

from __future__ import annotations

import pytest

from dbos_async import DBOS
from tests.support.eventually import eventually
from tests.support.proxy import Proxy


async def _is_well() -> bool:
    return (await DBOS.health()).ok


async def _is_ill() -> bool:
    reasons = " ".join((await DBOS.health()).reasons)
    return "listener" in reasons or "polls" in reasons


@pytest.mark.parametrize(
    ("listen", "said"), [(True, "The listener lost the database"), (False, "A poll for changes lost the database")]
)
async def test_d5_connections_that_are_cut_again_and_again_do_not_flood_the_log(
    database_url: str, caplog: pytest.LogCaptureFixture, listen: bool, said: str
) -> None:
    async with Proxy(database_url) as proxy, DBOS(proxy.url, listen=listen):
        outages_left = 2
        while outages_left or said not in caplog.text:
            outages_left -= said in caplog.text
            await eventually(_is_well)
            proxy.refuse()
            proxy.cut()
            await eventually(_is_ill)
            await proxy.heal()
        await eventually(_is_well)
    assert caplog.text.count(said) == 1
