"""What is due is done once, in order, whoever else is at it: races forced by hand on two connections (C4)."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, SetWorkflowID
from dbos_async._lifecycle import periodic
from dbos_async._lifecycle.periodic import BEGIN_DUE, DUE, MOVE_DUE
from dbos_async._messaging.send_later import SEND_LATER
from dbos_async._workflows.control import CANCEL, RESUME
from dbos_async._workflows.delete import DELETE
from dbos_async._workflows.start import START_BY_ID
from tests.support.eventually import eventually
from tests.support.races import blocked
from tests.support.statements import Row, execute

PUT = """
    insert into dbos_async.delayed_messages (id, seq, destination_id, due_at, topic, payload, idempotency_key, digest)
        select gen_random_uuid(), nextval('dbos_async.delayed_seq'), $1, now() + make_interval(secs => n), 't', to_json(n), $4, 'd'
        from generate_series($2::int, $3::int) as n
"""
"""Messages of which each is due n seconds from now."""
QUEUE = "select payload::text::int as n from dbos_async.messages where topic = 't' order by seq"
LEFT = "select payload::text::int as n from dbos_async.delayed_messages order by due_at, seq"


async def put(connection: Any, first: int, last: int, destination_id: str = "w", key: str | None = None) -> None:
    await connection.execute(PUT, destination_id, first, last, key)


async def values(connection: Any, sql: str) -> list[int]:
    return [row["n"] for row in await connection.fetch(sql)]


async def due(connection: Any, busy: str | None = None) -> set[tuple[str, str]]:
    return {(row["what"], row["id"]) for row in await execute(connection, DUE, (100, busy))}


async def test_c4_what_is_due_is_found_and_nothing_else(one: Any) -> None:
    await put(one, -2, 2)
    await put(one, 1, 2, "other")
    await one.execute(
        "insert into dbos_async.workflows (id, name, status, input, start_id, attempt, due_at) select 'd' || n, 'f', 'DELAYED', "
        "'{}', gen_random_uuid(), 0, now() + make_interval(secs => n) from generate_series(-1, 1, 2) as n"
    )
    assert await due(one) == {("move", "w"), ("start", "d-1")}
    assert await due(one, '["w"]') == {("start", "d-1")}
    await execute(one, MOVE_DUE, ("w", 100))
    await execute(one, BEGIN_DUE, ("d-1", b"d"), ("d1", b"d"), calls=2)
    assert (await due(one), await values(one, QUEUE), await values(one, LEFT)) == (set(), [-2, -1, 0], [1, 1, 2, 2])
    assert await one.fetchval("select array_agg(id) from dbos_async.workflows where status = 'DELAYED'") == ["d1"]


@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
async def test_c4_a_second_mover_takes_nothing_before_the_first_has_committed(one: Any, two: Any, ends_by: str) -> None:
    await put(one, -20, -1)
    await one.execute("begin")
    assert len(await execute(one, MOVE_DUE, ("w", 5))) == 1
    # The others are free, and would come before those that the first one has in hand.
    assert await execute(two, MOVE_DUE, ("w", 100)) == []
    await put(two, -30, -30)  # a send that was committed late
    await execute(two, MOVE_DUE, ("w", 100))
    assert await values(two, QUEUE) == [-30]
    await one.execute(ends_by)
    await execute(two, MOVE_DUE, ("w", 100))
    # The first one had drawn its places before.
    in_hand = list(range(-20, -15))
    assert await values(two, QUEUE) == [
        *(in_hand if ends_by == "commit" else ()),
        -30,
        *(() if ends_by == "commit" else in_hand),
        *range(-15, 0),
    ]
    assert await values(two, LEFT) == []


async def test_c4_a_mover_that_looked_before_the_other_committed_moves_nothing_twice(
    one: Any, two: Any, three: Any
) -> None:
    """The second one has found its rows, and waits for a key of theirs that a third transaction holds."""
    await put(one, -2, -1)
    await put(one, 0, 0, key="k")
    await one.execute("begin")
    await one.execute(
        "insert into dbos_async.messages (id, seq, destination_id, topic, payload, idempotency_key) "
        "values (gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 't', '7', 'k')"
    )
    late = asyncio.create_task(execute(two, MOVE_DUE, ("w", 100)))
    await blocked(two, late, three)
    assert await execute(three, MOVE_DUE, ("w", 100)) == []
    await one.execute("commit")
    await late
    assert await execute(three, MOVE_DUE, ("w", 100)) == []
    assert (await values(one, QUEUE), await values(one, LEFT)) == ([7, -2, -1], [])


@pytest.mark.parametrize("first", ["move", "delete"])
async def test_c4_a_move_and_a_deletion_leave_nothing_behind(first: str, one: Any, two: Any, three: Any) -> None:
    await put(one, -3, -1, "other")
    move: tuple[Any, Row] = MOVE_DUE, ("other", 100)
    delete: tuple[Any, Row] = DELETE, ("other", 1, b"d")
    acts = [move, delete] if first == "move" else [delete, move]
    await one.execute("begin")
    assert await execute(one, *acts[0])
    second = asyncio.create_task(execute(two, *acts[1]))
    if first == "move":
        await blocked(two, second, three)
    else:
        assert await second == []
    await one.execute("commit")
    await second
    for table in ("messages", "delayed_messages"):
        assert await one.fetchval(f"select count(*) from dbos_async.{table} where destination_id = 'other'") == 0
    assert await execute(two, MOVE_DUE, ("other", 100)) == []


async def test_c4_messages_of_a_destination_that_is_gone_are_dropped(one: Any) -> None:
    await put(one, -1, -1, "nobody")
    assert await due(one) == {("move", "nobody")}
    assert len(await execute(one, MOVE_DUE, ("nobody", 100))) == 1
    assert (await due(one), await values(one, QUEUE)) == (set(), [])


def later(destination_id: str, name: str | None, delay: float | None = None, key: str | None = None) -> Row:
    start = (None, name, "{}", None, None, uuid4(), None, None, None, b"u") if name else (None,) * 10
    return (
        None, None, None, None, "send", "", uuid4(), destination_id, "t", "1", None, b"d", None, key, delay, *start
    )  # fmt: skip


def plain_start(workflow_id: str, name: str) -> Row:
    return workflow_id, name, "{}", None, None, None, uuid4(), None, None, b"u"


@pytest.mark.parametrize("name", ["f", "g"])
@pytest.mark.parametrize("ends_by", ["commit", "rollback"])
@pytest.mark.parametrize("first", ["start", "send"])
async def test_c4_w1_a_start_and_a_send_that_starts_side_by_side_are_one(
    first: str, ends_by: str, name: str, one: Any, two: Any, three: Any
) -> None:
    acts: list[tuple[Any, Row]] = [(START_BY_ID, plain_start("new", "f")), (SEND_LATER, later("new", name))]
    if first == "send":
        acts.reverse()
    await one.execute("begin")
    await execute(one, *acts[0])
    second = asyncio.create_task(execute(two, *acts[1]))
    await blocked(two, second, three)
    await one.execute(ends_by)
    try:
        (answer,) = await second
    except asyncpg.UniqueViolationError:
        assert ends_by == "commit"
        (answer,) = await execute(two, *acts[1])
    is_conflict = ends_by == "commit" and name == "g"
    assert ("WorkflowConflictError" in (answer["error"] or "")) == is_conflict
    assert await one.fetchval("select count(*) from dbos_async.workflows where id = 'new'") == 1
    has_message = not (ends_by == "commit" and name == "g" and first == "start") and (
        ends_by == "commit" or first == "start"
    )
    assert await one.fetchval("select count(*) from dbos_async.messages where destination_id = 'new'") == has_message


async def test_c4_w1_of_a_batch_that_starts_one_workflow_the_first_function_counts(one: Any) -> None:
    rows = [later("new", "f"), later("new", "g"), later("new", "f", 60)]
    answers = await execute(one, SEND_LATER, *rows, calls=3)
    assert [(each["n"], each["error"] is None) for each in sorted(answers, key=lambda each: each["n"])] == [
        (0, True), (1, False), (2, True),
    ]  # fmt: skip
    assert await one.fetchval("select name from dbos_async.workflows where id = 'new'") == "f"
    assert await one.fetchval("select count(*) from dbos_async.messages where destination_id = 'new'") == 1
    assert await one.fetchval("select count(*) from dbos_async.delayed_messages") == 1


async def test_c4_a_send_that_starts_waits_for_the_deletion_of_its_destination(one: Any, two: Any, three: Any) -> None:
    await one.execute("begin")
    await execute(one, DELETE, ("other", 1, b"d"))
    second = asyncio.create_task(execute(two, SEND_LATER, later("other", "f")))
    await blocked(two, second, three)
    await one.execute("commit")
    (answer,) = await second
    assert (answer["output"], answer["error"]) == (None, None)
    row = await one.fetchrow("select status, attempt from dbos_async.workflows where id = 'other'")
    assert row["status"] == "PENDING", "another life"
    assert await one.fetchval("select count(*) from dbos_async.messages where destination_id = 'other'") == 1


async def test_c4_m3_a_repetition_that_comes_after_the_move_stores_nothing(one: Any) -> None:
    row = later("w", None, 0.0)
    await execute(one, SEND_LATER, row)
    await execute(one, MOVE_DUE, ("w", 100))
    await execute(one, SEND_LATER, row)  # its answer was lost
    assert await one.fetchval("select count(*) from dbos_async.delayed_messages") == 0
    keyed = later("w", None, 0.0, "k")
    await execute(one, SEND_LATER, keyed, keyed, form="")
    await execute(one, SEND_LATER, later("w", None, 60.0, "k"))
    await execute(one, MOVE_DUE, ("w", 100))
    assert await one.fetchval("select count(*) from dbos_async.messages where topic = 't'") == 2
    assert await one.fetchval("select count(*) from dbos_async.delayed_messages") == 0


@pytest.mark.parametrize("other", [CANCEL, RESUME], ids=["cancel", "resume"])
@pytest.mark.parametrize("first", ["due", "other"])
async def test_c4_w6_a_delayed_start_that_is_due_while_it_is_cancelled_or_resumed(
    other: Any, first: str, one: Any, two: Any, three: Any
) -> None:
    await one.execute(
        "update dbos_async.workflows set status = 'DELAYED', owner = null, attempt = 0, due_at = now() where id = 'w'"
    )
    act: tuple[Any, Row] = (CANCEL, ("w", None, b"d")) if other is CANCEL else (RESUME, ("w", None, b"d"))
    begin: tuple[Any, Row] = BEGIN_DUE, ("w", b"d")
    await one.execute("begin")
    await execute(one, *(begin if first == "due" else act))
    if first == "due":
        second = asyncio.create_task(execute(two, *act))
        await blocked(two, second, three)
        await one.execute("commit")
        await second
    else:
        assert await execute(two, *begin) == []
        await one.execute("commit")
        assert await execute(two, *begin) == []
    expected = ("CANCELLED", 1) if other is CANCEL else ("PENDING", 0)
    assert tuple(await one.fetchrow("select status, attempt from dbos_async.workflows where id = 'w'")) == expected


@DBOS.workflow(name="receives what was moved")
async def receives() -> object:
    return await DBOS.recv("t", None)


async def test_c4_w10_a_destination_whose_key_somebody_holds_keeps_no_other_waiting(
    dbos: DBOS, connection: Any
) -> None:
    for workflow_id in ("held", "free"):
        with SetWorkflowID(workflow_id):
            await DBOS.start_workflow(receives)
    transaction = connection.transaction()
    await transaction.start()
    await DBOS.send("held", "at once", "t", idempotency_key="k", connection=connection)
    await DBOS.send("held", "delayed", "t", idempotency_key="k", delay_seconds=0.1)
    for delay in (0.05, 0.3, 3.0):
        await DBOS.send("free", delay, "t", delay_seconds=delay)
    free = await DBOS.retrieve_workflow("free")
    assert await free.get_result(timeout_seconds=10) == 0.05

    async def is_stored(count: int) -> bool:
        return len(await DBOS.list_messages("free")) == count

    await eventually(lambda: is_stored(3))
    await transaction.rollback()
    assert await (await DBOS.retrieve_workflow("held")).get_result(timeout_seconds=10) == "delayed"
    assert await DBOS.list_messages("held", status="delayed") == []
    assert periodic.MAX_DUE > 1
