"""Copies of a workflow that go on from one of its steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSClient,
    InvalidArgumentError,
    SetWorkflowID,
    WorkflowConflictError,
    WorkflowHandle,
    WorkflowNotFoundError,
)
from tests.support.eventually import eventually

RAN: list[Any] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()


@DBOS.step(name="note of a fork")
async def note(what: Any) -> Any:
    RAN.append(what)
    return what


@DBOS.workflow()
async def child(n: int) -> int:
    RAN.append("child")
    return n


@DBOS.workflow()
async def story() -> list[Any]:
    seen = [await note("one")]  # 1
    seen.append(await DBOS.recv("t"))  # 2
    await DBOS.set_event("e", "early")  # 3
    await DBOS.write_stream("s", 0)  # 4
    started: WorkflowHandle[int] = await DBOS.start_workflow(child, 5)  # 5
    seen.append(started.workflow_id)
    seen.append(await started.get_result())  # 6
    seen += await asyncio.gather(note("six.1"), DBOS.recv("t"))  # 6.1.1, 6.2.1
    await DBOS.set_event("e", "late")  # 7
    await DBOS.write_stream("s", 1)  # 8
    seen.append(await DBOS.recv("t"))  # 9
    seen.append(await note("ten"))  # 10
    return seen


async def told() -> WorkflowHandle[list[Any]]:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(story)
    for n in range(5):
        await DBOS.send("w", n, "t")
    await DBOS.send("w", "never received", "another topic")
    await handle.get_result()
    return handle


async def contents(connection: Any, workflow_id: str) -> list[Any]:
    return [
        await connection.fetch(f"select * from dbos_async.{table} where {column} = $1 order by 1, 2, 3", workflow_id)
        for table, column in (
            ("workflows", "id"),
            ("steps", "workflow_id"),
            ("messages", "destination_id"),
            ("events", "workflow_id"),
            ("stream_entries", "workflow_id"),
        )
    ]


@pytest.mark.parametrize(
    ("start", "reran", "events", "stream", "unreceived"),
    [
        (1, ["one", "child", "six.1", "ten"], {}, [], [0, 1, 2, 3, 4]),
        (3, ["child", "six.1", "ten"], {}, [], [1, 2, 3, 4]),
        (5, ["child", "six.1", "ten"], {"e": "early"}, [0], [1, 2, 3, 4]),
        (6, ["six.1", "ten"], {"e": "early"}, [0], [1, 2, 3, 4]),
        ("6.2.1", ["six.1", "ten"], {"e": "early"}, [0], [1, 2, 3, 4]),  # 6.1.1 had no result when 6.2.1 was asked for
        (7, ["ten"], {"e": "early"}, [0], [2, 3, 4]),
        (10, ["ten"], {"e": "late"}, [0, 1], [3, 4]),
        (11, [], {"e": "late"}, [0, 1], [3, 4]),
    ],
)
async def test_a_fork_has_what_the_original_did_before_and_does_the_rest_anew(
    database_url: str,
    connection: Any,
    start: int | str,
    reran: list[str],
    events: Any,
    stream: list[int],
    unreceived: list[int],
) -> None:
    async with DBOS(database_url, application_version="here"):
        await compare(connection, start, reran, events, stream, unreceived)


async def compare(
    connection: Any, start: int | str, reran: list[str], events: Any, stream: list[int], unreceived: list[int]
) -> None:
    original = await told()
    before = await contents(connection, "w")
    RAN.clear()
    # Nobody runs it yet, so that it can be looked at.
    with SetWorkflowID("fork"):
        await DBOS.fork_workflow("w", start, application_version="nobody's")
    assert await DBOS.get_all_events("fork") == events
    values = "select value::text::int from dbos_async.stream_entries where workflow_id = 'fork' order by \"offset\""
    assert [row[0] for row in await connection.fetch(values)] == stream
    waiting = (
        "select payload::text::int from dbos_async.messages "
        "where destination_id = 'fork' and topic = 't' and received_at is null order by seq"
    )
    assert [row[0] for row in await connection.fetch(waiting)] == unreceived
    assert (await (await DBOS.retrieve_workflow("fork")).get_status()).forked_from == "w"
    await DBOS.cancel_workflow("fork")
    handle = await DBOS.resume_workflow("fork", application_version="here")
    result, its = await original.get_result(), await handle.get_result()
    if isinstance(start, str) or start > 5:
        assert its == result
    else:
        assert its[:2] + its[3:] == result[:2] + result[3:]
    assert sorted(RAN) == sorted(reran)
    assert [value async for value in DBOS.read_stream("fork", "s")] == [0, 1]
    assert await DBOS.get_event("fork", "e") == "late"
    assert await contents(connection, "w") == before


async def test_a_fork_of_a_fork_has_the_messages_that_the_original_took(dbos: DBOS) -> None:
    original = await told()
    with SetWorkflowID("first"):
        first = await DBOS.fork_workflow("w", 10)
    await first.get_result()
    await DBOS.delete_workflow("w")
    second = await DBOS.fork_workflow("first", 2)
    assert (await second.get_result())[:2] == ["one", 0]
    assert second.workflow_id not in ("w", "first")
    with pytest.raises(WorkflowNotFoundError):
        await original.get_status()


async def test_a_fork_of_a_running_workflow_leaves_it_alone(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(story)
    await DBOS.send("w", "a", "t")
    await eventually(lambda: DBOS.get_event("w", "e", 0))
    fork = await DBOS.fork_workflow("w", 3)
    for workflow_id in ("w", fork.workflow_id):
        for message in ("b", "c"):
            await DBOS.send(workflow_id, message, "t")
    assert (await handle.get_result())[1] == (await fork.get_result())[1] == "a"


async def test_a_fork_that_is_repeated_is_the_same_fork(dbos: DBOS) -> None:
    await told()
    with SetWorkflowID("other"):
        await (await DBOS.start_workflow(child, 1)).get_result()
    for _ in range(2):
        with SetWorkflowID("fork"):
            await (await DBOS.fork_workflow("w", 10)).get_result()
    assert RAN.count("ten") == 2
    with SetWorkflowID("other"), pytest.raises(WorkflowConflictError, match="'other'"):
        await DBOS.fork_workflow("w", 10)
    with SetWorkflowID("other"), pytest.raises(WorkflowConflictError, match="'other'"):
        await DBOS.fork_workflow("other", 1)


async def test_a_fork_names_itself_where_the_original_named_itself(dbos: DBOS) -> None:
    @DBOS.workflow(name="introspective")
    async def introspective() -> Any:
        me = str(DBOS.workflow_id)
        await DBOS.set_event("e", 1)
        await DBOS.send(me, "to myself", "t")
        await DBOS.send(me, "to myself")
        seen = [await DBOS.get_event(me, "e"), await DBOS.recv("t"), await DBOS.recv()]
        return [*seen, await note("end")]

    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(introspective)
    fork = await DBOS.fork_workflow("w", 7) if await handle.get_result() else None
    assert fork is not None
    assert await fork.get_result() == [1, "to myself", "to myself", "end"]


async def test_a_workflow_that_forks_does_so_once(database_url: str, dbos: DBOS) -> None:
    @DBOS.workflow(name="forks")
    async def forks() -> str:
        return (await DBOS.fork_workflow("w", 10)).workflow_id

    await told()
    handle = await DBOS.start_workflow(forks)
    fork_id = await handle.get_result()
    assert (
        await (await DBOS.retrieve_workflow(fork_id)).get_result()
        == await (await DBOS.retrieve_workflow("w")).get_result()
    )
    assert {s.workflow_id for s in await DBOS.list_workflows(name="story")} == {"w", fork_id}


@pytest.mark.parametrize("start", [0, -1, "x", "4.", "4.x", True, None, 1.5])
async def test_d5_a_start_step_that_is_none_is_refused(dbos: DBOS, start: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="start_step must be the number of a step"):
        await DBOS.fork_workflow("w", start)


async def test_d5_what_does_not_exist_cannot_be_forked(database_url: str) -> None:
    async with DBOSClient(database_url) as client:
        with pytest.raises(WorkflowNotFoundError, match="'nobody'"):
            await client.fork_workflow("nobody", 1)


@DBOS.workflow()
async def reads_and_writes(name: str) -> list[Any]:
    await DBOS.write_stream("s", f"{name} begins")
    got = [await DBOS.recv(), await DBOS.recv()]
    await DBOS.write_stream("s", f"{name} ends")
    return got


async def test_forks_at_the_same_time_have_nothing_of_each_other(dbos: DBOS) -> None:
    originals = {name: await DBOS.start_workflow(reads_and_writes, name) for name in ("a", "b")}
    for name, original in originals.items():
        await DBOS.send(original.workflow_id, f"first of {name}")
        await DBOS.send(original.workflow_id, f"second of {name}")
        await original.get_result()
    wanted = [(name, start) for name in originals for start in (1, 2, 3, 4, 5)]
    forks = await asyncio.gather(*(DBOS.fork_workflow(originals[name].workflow_id, start) for name, start in wanted))
    for (name, _), fork in zip(wanted, forks, strict=True):
        assert await fork.get_result() == [f"first of {name}", f"second of {name}"]
        assert [step.step for step in await DBOS.list_workflow_steps(fork.workflow_id)] == ["1", "2", "3", "4"]
        assert len(await DBOS.list_messages(fork.workflow_id, status="received")) == 2
        said = [value async for value in DBOS.read_stream(fork.workflow_id, "s")]
        assert said == [f"{name} begins", f"{name} ends"]
