"""Lists in pages: each row is shown once, whatever is committed late or deleted meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, SetApplicationVersion, SetWorkflowID
from dbos_async._database.pages import MAX_REMEMBERED, Cursor
from tests.support.eventually import eventually
from tests.support.workflows import echo, wait_for_ever

START = wait_for_ever


async def start(workflow_id: str, **options: Any) -> None:
    with SetWorkflowID(workflow_id):
        await DBOS.start_workflow(START, **options)


async def ids(**options: Any) -> list[str]:
    return [status.workflow_id for status in await DBOS.list_workflows(**options)]


async def payloads(**options: Any) -> list[Any]:
    return [message.payload for message in await DBOS.list_messages("first", **options)]


async def test_d5_pages_show_what_is_committed_late(dbos: DBOS, connection: Any) -> None:
    await start("first")
    async with connection.transaction():
        await start("late", connection=connection)
        await DBOS.send("first", "late", connection=connection)
        await start("second")
        await DBOS.send("first", "second")
        page, letters = await DBOS.list_workflows(), await DBOS.list_messages("first")
        assert [status.workflow_id for status in page] == ["first", "second"]
        assert [letter.payload for letter in letters] == ["second"]
    await start("third")
    await DBOS.send("first", "third")
    for _ in range(2):  # a page that is asked for again is the same one
        assert await ids(after="second") == ["late", "third"]
        assert await payloads(after=letters[-1].id) == ["late", "third"]
    assert await ids(cursor=page[-1].cursor, limit=1) == ["late"]
    assert await ids(after="late") == ["third"]
    assert await ids(after="third") == []
    assert await payloads(cursor=letters[-1].cursor, limit=1) == ["late"]
    (third,) = await DBOS.list_messages(
        "first", cursor=(await DBOS.list_messages("first", after=letters[-1].id))[0].cursor
    )
    assert third.payload == "third"
    assert await ids() == ["first", "late", "second", "third"]


async def test_d5_every_row_is_in_one_page_although_many_commit_late(dbos: DBOS, connect: Callable[[], Any]) -> None:
    """Followers of every kind of page, while transactions that are open for a while start and send."""
    await start("first")
    expected = {"first"}
    done = asyncio.Event()

    async def write(writer: int) -> None:
        own = await connect()
        for number in range(12):
            async with own.transaction():
                for part in range(3):
                    await start(f"{writer} {number} {part}", connection=own)
                    await DBOS.send("first", f"{writer} {number} {part}", connection=own)
                    await asyncio.sleep(0.002 * writer)
            expected.update(f"{writer} {number} {part}" for part in range(3))

    async def follow(limit: int) -> list[str]:
        seen: list[str] = []
        cursor = None
        while True:
            was_done = done.is_set()
            page = await DBOS.list_workflows(limit=limit, cursor=cursor)
            seen += [status.workflow_id for status in page]
            cursor = page[-1].cursor if page else cursor
            if was_done and not page:
                return seen

    async def follow_messages(limit: int) -> list[Any]:
        seen: list[Any] = []
        cursor = None
        while True:
            was_done = done.is_set()
            page = await DBOS.list_messages("first", limit=limit, cursor=cursor)
            seen += [message.payload for message in page]
            cursor = page[-1].cursor if page else cursor
            if was_done and not page:
                return seen

    async with asyncio.TaskGroup() as group:
        followers = [group.create_task(follow(limit)) for limit in (1, 2, 7, 100)]
        readers = [group.create_task(follow_messages(limit)) for limit in (1, 3, 100)]
        await asyncio.gather(*(write(writer) for writer in range(1, 5)))
        done.set()
    for follower in followers:
        assert sorted(follower.result()) == sorted(expected)
    for reader in readers:
        assert sorted(reader.result()) == sorted(expected - {"first"})


async def test_d5_pages_survive_the_deletion_of_their_last_row(dbos: DBOS, database_url: str) -> None:
    for number in range(6):
        with SetWorkflowID(f"w{number}"):
            await echo(number)
    page = await DBOS.list_workflows(limit=2)
    assert [status.workflow_id for status in page] == ["w0", "w1"]
    newest = await DBOS.list_workflows(limit=2, newest_first=True)
    assert [status.workflow_id for status in newest] == ["w5", "w4"]
    await DBOS.delete_workflow("w1")
    await DBOS.delete_workflow("w4")
    assert await ids(after="w1", limit=2) == ["w2", "w3"]
    assert await ids(after="w4", limit=2, newest_first=True) == ["w3", "w2"]
    async with DBOSClient(database_url) as client:
        with pytest.raises(InvalidArgumentError, match="'w1' is not known: give the cursor"):
            await client.list_workflows(after="w1")
        assert [s.workflow_id for s in await client.list_workflows(cursor=page[-1].cursor, limit=1)] == ["w2"]
        assert [s.workflow_id for s in await client.list_workflows(after="w2", limit=1)] == ["w3"]


async def test_d5_newest_first_ends_with_what_was_there(dbos: DBOS, connection: Any) -> None:
    for name in ("a", "b"):
        await start(name)
        await DBOS.send("a", name)
    async with connection.transaction():
        await start("late", connection=connection)
        await DBOS.send("a", "late", connection=connection)
        await start("c")
        await DBOS.send("a", "c")
        page = await DBOS.list_workflows(newest_first=True, limit=2)
        letters = await DBOS.list_messages("a", newest_first=True, limit=1)
    await start("d")
    await DBOS.send("a", "d")
    assert [status.workflow_id for status in page] == ["c", "b"]
    assert await ids(newest_first=True, after="b") == ["a", "late"], "nothing newer than the list"
    assert [m.payload for m in letters] == ["c"]
    rest = await DBOS.list_messages("a", newest_first=True, after=letters[-1].id)
    assert [m.payload for m in rest] == ["b", "a", "late"]
    assert await ids(newest_first=True) == ["d", "c", "late", "b", "a"]


async def test_d5_filters_take_one_or_several(dbos: DBOS) -> None:
    for number in range(3):
        with SetWorkflowID(f"e{number}"), SetApplicationVersion(str(number)):
            await DBOS.start_workflow(echo, number)
    await start("waits")
    await eventually(lambda: _ended(3))
    assert await ids(status=["SUCCESS", "PENDING"]) == ["e0", "e1", "e2", "waits"]
    assert await ids(status=("ERROR", "CANCELLED")) == []
    assert await ids(name=["echo", "nobody"]) == ["e0", "e1", "e2"]
    assert await ids(workflow_id=["waits", "e1", "nobody"]) == ["e1", "waits"]
    assert await ids(workflow_id="e2", newest_first=True) == ["e2"]
    assert await ids(application_version="1") == ["e1"]
    assert await ids(application_version=["0", "2"], newest_first=True) == ["e2", "e0"]
    assert await ids(workflow_id=["e0", "e1", "e2"], limit=1, after="e0") == ["e1"]
    assert await ids(status=[]) == [], "none of no texts fits"
    found = (await DBOS.list_workflows(name="echo", payloads=False))[1]
    assert (found.workflow_id, found.input, found.output) == ("e1", None, None)
    await DBOS.send("waits", "text")
    (message,) = await DBOS.list_messages("waits", payloads=False)
    assert message.payload is None


async def _ended(count: int) -> bool:
    return len(await DBOS.list_workflows(status="SUCCESS")) == count


@pytest.mark.parametrize(
    "options",
    [
        {"status": ["DONE"]}, {"status": 1}, {"name": [1]}, {"name": b"x"}, {"workflow_id": [""]}, {"newest_first": 1},
        {"payloads": None}, {"cursor": "x"}, {"cursor": 1}, {"cursor": "WzFd"}, {"after": "a", "cursor": "x"},
        {"application_version": ["\0"]},
    ],
)  # fmt: skip
async def test_d5_arguments_of_lists_are_checked(dbos: DBOS, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        await DBOS.list_workflows(**options)


async def test_d5_a_cursor_is_checked(dbos: DBOS) -> None:
    now = datetime.now(UTC)
    good = Cursor(None, None, "1:5:2,3", now, now, (now, "w"))
    assert Cursor.of(good.text, datetime, str) == good
    for bad in (
        good._replace(seen="1:5:x"),
        good._replace(seen="9:5:7"),
        good._replace(seen="1:5:3,2"),
        good._replace(position=(now, "a\0")),
        good._replace(position=(1,)),
    ):
        with pytest.raises(InvalidArgumentError, match="is none"):
            Cursor.of(bad.text, datetime, str)
    with pytest.raises(InvalidArgumentError, match="is none"):
        await DBOS.list_messages("w", cursor=good.text)
    for position in (2**63, -(2**63), True):
        with pytest.raises(InvalidArgumentError, match="is none"):
            Cursor.of(good._replace(position=(position,)).text, int)
    with pytest.raises(InvalidArgumentError):
        await DBOS.list_workflows(cursor=good._replace(seen="0:5:").text)


async def test_d5_rows_that_another_server_made_are_listed(dbos: DBOS, connection: Any) -> None:
    """After a dump and a restore, their transactions are none of this server: they lie in its future."""
    for number in range(5):
        await start(f"w{number}")
        await DBOS.send("w0", number)
    past = timedelta(hours=2)
    await connection.execute(
        "update dbos_async.workflows set born = '4000000000', created_at = created_at - $1::interval", past
    )
    await connection.execute(
        "update dbos_async.messages set born = '4000000000', sent_at = sent_at - $1::interval", past
    )
    seen: list[str] = []
    while page := await ids(limit=2, after=seen[-1] if seen else None):
        seen += page
    assert seen == [f"w{number}" for number in range(5)]
    letters = await DBOS.list_messages("w0", limit=2)
    assert [m.payload for m in await DBOS.list_messages("w0", after=letters[-1].id)] == [2, 3, 4]


async def test_d5_rows_of_an_older_schema_are_listed(dbos: DBOS, connection: Any) -> None:
    for number in range(3):
        await start(f"w{number}")
    await connection.execute("update dbos_async.workflows set born = null")
    assert await ids(limit=2) == ["w0", "w1"]
    assert await ids(after="w1") == ["w2"]


async def test_d5_a_process_remembers_so_many_pages(dbos: DBOS) -> None:
    await start("w")
    for number in range(MAX_REMEMBERED + 5):
        await ids(id_prefix="w", until=datetime.now(UTC) + timedelta(days=number))
    assert len(dbos._runtime.database.pages._cursors) == MAX_REMEMBERED


STEPS = """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output, started_at, completed_at)
    select 'w', '', n, 'step', 'some_step', to_json(repeat('x', 200)), now() + n * interval '1 ms', now()
    from generate_series(1, $1::int) as n
"""


async def test_d5_a_page_of_a_hundred_thousand_steps_takes_milliseconds(dbos: DBOS, connection: Any) -> None:
    with SetWorkflowID("w"):
        await echo(1)
    await connection.execute(STEPS, 100_000)
    seen = []
    for options in ({}, {"after": "50000"}, {"newest_first": True}, {"after": "50000", "newest_first": True}):
        await DBOS.list_workflow_steps("w", limit=100, **options)  # the statement is prepared
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            page = await DBOS.list_workflow_steps("w", limit=100, **options)
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 0.05
        seen.append((page[0].step, page[-1].step))
    assert seen == [("1", "100"), ("50001", "50100"), ("100000", "99901"), ("49999", "49900")]
    assert (await DBOS.list_workflow_steps("w", limit=1, payloads=False))[0].output is None


@DBOS.step(name="short of many")
async def short(number: int) -> int:
    return number


@DBOS.workflow()
async def several_tasks() -> None:
    await short(0)
    await asyncio.gather(*(short(number) for number in range(3)))
    await short(4)


async def test_d5_pages_of_steps_go_task_by_task(dbos: DBOS) -> None:
    handle = await DBOS.start_workflow(several_tasks)
    await handle.get_result()
    everything = {step.step for step in await DBOS.list_workflow_steps(handle.workflow_id)}
    for newest_first in (False, True):
        paths: list[str] = []
        options: dict[str, Any] = {"limit": 2, "newest_first": newest_first}
        while page := await DBOS.list_workflow_steps(handle.workflow_id, **options):
            paths += [step.step for step in page]
            options["after"] = paths[-1]
        assert paths == sorted(paths, key=lambda path: (path.count("."), path), reverse=newest_first)
        assert set(paths) == everything
    for wrong in ("", "x", "1.", "1..2", 4, "9999999999"):
        with pytest.raises(InvalidArgumentError, match="after must be the step"):
            await DBOS.list_workflow_steps("w", after=wrong)  # type: ignore[arg-type]  # what is tested


@DBOS.workflow()
async def looks_into_its_mailbox() -> list[Any]:
    (waiting,) = await DBOS.list_messages("first")
    after = await DBOS.list_messages("first", after=waiting.id)
    return [waiting.payload, waiting.received_at, str(waiting.id), after]


async def test_d1_a_workflow_lists_messages(dbos: DBOS) -> None:
    await start("first")
    await DBOS.send("first", 1)
    (message,) = await DBOS.list_messages("first")
    assert await looks_into_its_mailbox() == [1, None, str(message.id), []]
