"""Pages that follow a workflow go on through its generations (T2)."""

from __future__ import annotations

import asyncio

from dbos_async import DBOS
from tests.support.eventually import eventually
from tests.support.web import events
from tests.support.web_app import start, values


@DBOS.workflow(name="web, writes in generations")
async def writes(turn: int) -> int:
    await DBOS.write_stream("k", turn)
    if turn == 5:
        return turn
    await DBOS.recv("go", None)
    await DBOS.continue_as_new(turn + 1)


async def test_t2_a_page_shows_what_all_generations_have_written(site: str) -> None:
    await start("w", 1, workflow=writes)
    reading = asyncio.create_task(events(f"{site}/w/stream"))
    for turn in range(1, 5):
        await eventually(lambda: _is_generation(turn))  # noqa: B023 - called at once
        await DBOS.send("w", "go", "go")
    found = await reading
    assert values(found) == [1, 2, 3, 4, 5]
    assert found[-1].event == "end"


async def _is_generation(number: int) -> bool:
    return (await (await DBOS.retrieve_workflow("w")).get_status()).generation == number
