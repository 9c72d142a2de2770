"""Purging: what is removed, and that nothing else is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_async import DBOS, DBOSClient, InvalidArgumentError, PurgeResult, SetWorkflowID, WorkflowNotFoundError
from dbos_async._database import change_keys
from dbos_async._operations import purge
from dbos_async._workflows.delete import ENDED
from dbos_async._workflows.status import STATUSES
from tests.support.eventually import eventually
from tests.support.populations import TABLES, Life, all_rows, ids, make, without

OLD_SECONDS = 500.0


@DBOS.workflow(name="to purge")
async def life(with_child: bool) -> int:
    await DBOS.set_event("e", 1)
    await DBOS.write_stream("s", 1)
    await DBOS.now()
    if with_child:
        with SetWorkflowID("child"):
            await DBOS.start_workflow(life, False)
    await DBOS.recv("end", None)
    return 1


async def lived(workflow_id: str = "w", with_child: bool = False) -> None:
    with SetWorkflowID(workflow_id):
        handle = await DBOS.start_workflow(life, with_child)
    await DBOS.send(workflow_id, None, "end", idempotency_key="k")
    await DBOS.send(workflow_id, "never received")
    await DBOS.send(workflow_id, "never due", delay_seconds=3600)
    await handle.get_result()


async def test_t3_a_workflow_that_has_ended_is_removed_whole_and_its_child_stays(dbos: DBOS, connection: Any) -> None:
    await lived(with_child=True)
    await eventually(
        lambda: connection.fetchval("select count(*) = 4 from dbos_async.steps where workflow_id = 'child'")
    )
    before = await all_rows(connection)
    assert {table for table, of in before if of == "w"} == set(TABLES)
    assert await DBOS.purge(timedelta(hours=1)) == PurgeResult(count=0)
    assert await all_rows(connection) == before
    assert await DBOS.purge(0) == PurgeResult(count=1)
    assert await all_rows(connection) == without(before, "w")
    with pytest.raises(WorkflowNotFoundError, match="'w'"):
        await DBOS.retrieve_workflow("w")
    await lived()  # The id is free again, and so are the keys of its messages.
    await DBOS.send("child", None, "end")
    async with asyncio.timeout(10):
        assert await (await DBOS.retrieve_workflow("child")).get_result() == 1


lives = st.builds(
    Life,
    id=st.just(""),
    name=st.sampled_from(["f", "g"]),
    status=st.sampled_from(STATUSES),
    ended_ago=st.sampled_from([1.0, OLD_SECONDS - 60, OLD_SECONDS + 1, 5000.0]),
    lasted=st.sampled_from([0.0, 0.5, 100.0, 10_000.0]),
    parent_id=st.sampled_from([None, "0", "1"]),
    **{what: st.integers(0, 2) for what in ("steps", "received", "waiting", "rejected", "delayed", "events", "stream")},
)


@pytest.fixture
async def client(database_url: str) -> Any:
    async with DBOSClient(database_url) as opened:
        yield opened


def is_old(each: Life, status: str | list[str], name: str | list[str] | None) -> bool:
    """Whether a purge with these arguments is to remove it."""
    return (
        each.ended_ago is not None
        and each.ended_ago >= OLD_SECONDS
        and each.status in ([status] if isinstance(status, str) else status)
        and (name is None or each.name in ([name] if isinstance(name, str) else name))
    )


@given(
    population=st.lists(lives, max_size=25),
    status=st.one_of(st.just(ENDED), st.sampled_from(ENDED), st.lists(st.sampled_from(ENDED), unique=True)),
    name=st.sampled_from([None, "f", ["g", "h"]]),
    limit=st.one_of(st.none(), st.integers(1, 12)),
    walked=st.integers(1, 8),
    removed=st.integers(1, 8),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_t3_a_purge_removes_what_is_old_whole_and_nothing_else(
    client: DBOSClient,
    connection: Any,
    population: list[Life],
    status: Any,
    name: Any,
    limit: Any,
    walked: int,
    removed: int,
) -> None:
    """Random populations, in pages and transactions of any size; every table is compared."""
    population = [
        replace(each, id=str(n), ended_ago=each.ended_ago if each.status in ENDED else None)
        for n, each in enumerate(population)
    ]
    await connection.execute("truncate " + ", ".join(f"dbos_async.{table}" for table in TABLES))
    await make(connection, *population)
    before = await all_rows(connection)
    old = {each.id for each in population if is_old(each, status, name)}
    count = len(old) if limit is None else min(len(old), limit)
    options: dict[str, Any] = {"status": status, "name": name, "limit": limit, "per_second": 10**6}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(purge, "MAX_WALKED", walked)
        patch.setattr(purge, "MAX_REMOVED", removed)
        assert await client.purge(timedelta(seconds=OLD_SECONDS), dry_run=True, **options) == PurgeResult(count=count)
        assert await all_rows(connection) == before
        assert await client.purge(OLD_SECONDS, **options) == PurgeResult(count=count)
        gone = {each.id for each in population} - {*await ids(connection)}
        assert gone <= old
        assert len(gone) == count
        assert await all_rows(connection) == without(before, *gone)
        if limit is not None:
            rest = PurgeResult(count=len(old) - count)
            assert await client.purge(OLD_SECONDS, **(options | {"limit": None})) == rest


async def test_t3_many_that_were_made_at_the_same_moment_are_all_found(
    client: DBOSClient, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "MAX_WALKED", 3)
    await make(connection, *[Life(str(n)) for n in range(20)])
    await connection.execute("update dbos_async.workflows set created_at = now() - interval '1 day'")
    assert (await client.purge(OLD_SECONDS)).count == 20


async def test_t3_a_purge_looks_at_a_bounded_number_of_workflows_at_a_time(client: DBOSClient, connection: Any) -> None:
    """Those that are old and still run stand before those that have ended."""
    await make(
        connection,
        *[Life(f"runs {n}", status="PENDING", ended_ago=None, lasted=10_000) for n in range(3 * purge.MAX_WALKED)],
    )
    await make(connection, Life("old"))
    await connection.execute("analyze")
    plan = await connection.fetchval(
        "explain (analyze, format json) "
        + purge.FIND_OLD.sql.one_row.replace("$1", "0")
        .replace("$2", "500")
        .replace("$3", "null")
        .replace("$4", "'[\"SUCCESS\"]'")
        .replace("$5", "null")
        .replace("$6", "null")
        .replace("$7", "null")
        .replace("$8", "100")
    )
    assert "Seq Scan" not in plan
    assert await client.purge(OLD_SECONDS) == PurgeResult(count=1)
    assert len(await ids(connection)) == 3 * purge.MAX_WALKED


async def test_t3_a_purge_keeps_to_its_rate(client: DBOSClient, connection: Any) -> None:
    await make(connection, *[Life(str(n)) for n in range(150)])
    began = time.monotonic()
    assert (await client.purge(OLD_SECONDS, per_second=100)).count == 150
    assert time.monotonic() - began >= 1.5


async def test_t3_a_workflow_purges_others_and_records_it(dbos: DBOS, connection: Any) -> None:
    @DBOS.workflow(name="purger")
    async def purger() -> PurgeResult:
        return await DBOS.purge(0)

    await make(connection, Life("old"), Life("parked", status="REPLAY_MISMATCH", ended_ago=None))
    with SetWorkflowID("purger"):
        assert await purger() == PurgeResult(count=1)
    (step,) = await DBOS.list_workflow_steps("purger")
    assert (step.verb, step.output) == ("purge", {"count": 1, "left": 0, "reason": None})
    assert await ids(connection) == ["parked", "purger"]


async def test_t3_who_waits_for_a_purged_workflow_hears_of_it(dbos: DBOS, connection: Any, database_url: str) -> None:
    """The waiters of another process are told, too."""
    await lived()
    handle = await DBOS.retrieve_workflow("w")
    async with DBOSClient(database_url) as client:
        key = change_keys.end_key("w")
        with client._database.changes(key) as changes:
            await anext(changes)
            await DBOS.purge(0)
            async with asyncio.timeout(10):
                await anext(changes)
    assert await DBOS.get_event("w", "e", 0) is None
    for find in (handle.get_result, handle.get_status):
        with pytest.raises(WorkflowNotFoundError, match="'w'"):
            await find()
    with pytest.raises(WorkflowNotFoundError, match="'w'"):
        await DBOS.send("w", 1)
    with pytest.raises(WorkflowNotFoundError, match="'w'"):
        async for _ in DBOS.read_stream("w", "s"):
            pass


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"older_than": "30d"}, "^older_than must be a timedelta or a number of seconds, at least 0 s and .* and is '30d'"),
        ({"older_than": timedelta(seconds=-1)}, "^older_than must be"),
        ({"older_than": timedelta.max}, "^older_than must be"),
        ({"older_than": 0, "status": "PENDING"}, "^status must be one of SUCCESS, ERROR, CANCELLED and is 'PENDING'"),
        ({"older_than": 0, "status": ["SUCCESS", "REPLAY_MISMATCH"]}, "^status must be one of"),
        ({"older_than": 0, "limit": 0}, "^limit must be a whole number of at least 1"),
        ({"older_than": 0, "per_second": 0.5}, "^per_second must be a whole number of at least 1"),
        ({"older_than": 0, "dry_run": "yes"}, "^dry_run must be True or False"),
        ({"older_than": 0, "name": ""}, "^name must not be empty"),
    ],
)  # fmt: skip
async def test_t3_arguments_that_cannot_be_used_remove_nothing(
    client: DBOSClient, connection: Any, arguments: dict[str, Any], sentence: str
) -> None:
    await make(connection, Life("old"))
    with pytest.raises(InvalidArgumentError, match=sentence):
        await client.purge(**arguments)
    assert await ids(connection) == ["old"]
