"""C1 within one process: a wait for topics and streams takes messages from senders, and hears of writers like everybody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, Envelope, EventEnd, EventOf, SetWorkflowID, StreamEnd, StreamOf, Topic, WorkflowHandle
from tests.support.eventually import eventually

STOP = Topic("stop", str)
SAID = Topic("said", int)


async def start(workflow: Any, workflow_id: str, *args: Any) -> WorkflowHandle[Any]:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(workflow, *args)


@pytest.mark.usefixtures("dbos")
@pytest.mark.parametrize("values", [0, 1, 3])
async def test_c1_a_stream_that_is_written_in_the_same_process_ends_a_wait_for_topics(
    values: int, connection: Any
) -> None:
    @DBOS.workflow(name="writes when told")
    async def write() -> None:
        await DBOS.recv("go on", None)
        for n in range(values):
            await DBOS.write_stream("words", f"word {n}")
        await DBOS.close_stream("words")

    @DBOS.workflow(name="waits for topics before a stream")
    async def waits(of: str) -> list[Any]:
        got: list[Any] = []
        while not got or not isinstance(got[-1], int):
            won = await DBOS.wait_first(STOP, SAID, StreamOf(of, "words", len(got)))
            assert not isinstance(won, Envelope)
            got.append(won.offset if isinstance(won, StreamEnd) else won.value)
        assert isinstance(await DBOS.wait_first(StreamOf(of, "words", values + 5), STOP), StreamEnd)
        assert isinstance(await DBOS.wait_first(STOP, EventOf(of, "price")), EventEnd)
        return got

    async def is_waiting() -> bool:
        found: bool = await connection.fetchval(
            "select exists (select from dbos_async.steps where workflow_id = 'w' and verb = 'wait_first')"
        )
        return found

    writer = await start(write, "writer")
    reader = await start(waits, "w", "writer")
    await eventually(is_waiting)
    await DBOS.send("writer", None, "go on")
    assert await reader.get_result() == [*(f"word {n}" for n in range(values)), values]
    await writer.get_result()


@pytest.mark.usefixtures("dbos")
async def test_c1_tasks_that_write_and_wait_for_topics_and_their_own_stream_share_a_workflow() -> None:
    @DBOS.workflow(name="waits for what it writes")
    async def waits() -> list[Any]:
        me = str(DBOS.workflow_id)

        async def write() -> None:
            for n in range(3):
                await DBOS.write_stream("words", n)
                await DBOS.send(me, n, SAID)
            await DBOS.close_stream("words")

        async def read() -> list[Any]:
            got: list[Any] = []
            values = messages = 0
            while values < 3 or messages < 3:
                won = await DBOS.wait_first(STOP, SAID, StreamOf(me, "words", values))
                if isinstance(won, Envelope):
                    messages += 1
                    got.append(("said", won.payload))
                elif isinstance(won, StreamEnd):  # it is closed, and the messages are all that is left
                    got.append(("said", await DBOS.recv(SAID, None)))
                    messages += 1
                else:
                    values += 1
                    got.append(("word", won.value))
            return got

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            group.create_task(write())
        return reading.result()

    got = await (await start(waits, "w")).get_result()
    for kind in ("said", "word"):
        assert [value for what, value in got if what == kind] == [0, 1, 2]
