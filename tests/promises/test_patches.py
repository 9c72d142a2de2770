"""What is recorded of changed code: lists and counts, copies, late runs, and replays that store nothing (W4)."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    InvalidArgumentError,
    SetWorkflowID,
)
from dbos_async._executor import launched
from dbos_async._operations.export import export_workflow
from dbos_async._operations.replay import replay_workflow
from dbos_async._runs.step import RECORD
from dbos_async._workflows.registry import registered
from tests.conftest import Connect
from tests.support.eventually import eventually
from tests.support.patched import (
    CODE,
    RAN,
    deployed,
    end_of,
    endless,
    is_patched,
    line,
    note,
    patches_of,
    reaches,
    start,
    tasks,
    way,
)
from tests.support.statements import execute


@pytest.fixture(autouse=True)
def _clean() -> None:
    CODE["is"] = "old"
    RAN.clear()


async def test_w4_lists_and_counts_tell_which_workflows_may_need_the_old_way(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(line, 3, workflow_id="old")
        await reaches("old", "2")
        await DBOS.send("old", "a", "go")
        await reaches("old", "4")
    async with deployed(database_url, "new"):
        await start(line, 3, workflow_id="new")
        await reaches("new", "2")
        assert {one.workflow_id for one in await DBOS.list_workflows(without_patch="extra")} == {"old", "new"}
        await DBOS.send("new", "a", "go")
        await reaches("new", "5")
        chosen: list[tuple[dict[str, Any], list[str]]] = [
            ({"patch": "extra"}, ["new"]),
            ({"without_patch": "extra"}, ["old"]),
        ]
        for filters, ids in chosen:
            for status in (None, "PENDING"):
                found = await DBOS.list_workflows(status=status, **filters)
                assert [one.workflow_id for one in found] == ids
                assert [one.count for one in await DBOS.count_workflows(status=status, **filters)] == [1]
            (newest,) = await DBOS.list_workflows(newest_first=True, workflow_id=["old", "new"], **filters)
            assert newest.patches == (("extra",) if ids == ["new"] else ())
        assert await DBOS.list_workflows(patch="another") == []
        assert await DBOS.list_workflows(patch="extra", without_patch="extra") == []
        await end_of("old", "b")
        assert await DBOS.list_workflows(status="PENDING", without_patch="extra") == []
        for name, text in (("patch", ""), ("without_patch", "a\0b")):
            with pytest.raises(InvalidArgumentError, match=name):
                await DBOS.list_workflows(**{name: text})  # type: ignore[arg-type]  # of all arguments


async def test_w4_names_are_any_text(database_url: str) -> None:
    names = ("a::b", "it's", '"quoted" \\ {}', "🪡 patch", "x" * 512, "?", "null")
    async with deployed(database_url, "new"):
        await start(asks_for, [*names])
        await reaches("w", "1")
        assert await patches_of() == tuple(sorted(names))
        for name in names:
            assert [one.workflow_id for one in await DBOS.list_workflows(patch=name)] == ["w"]
    async with deployed(database_url, "new"):
        assert await end_of("w", "now") == [True] * 2 * len(names)


@DBOS.workflow(name="patched under many names")
async def asks_for(names: list[str]) -> list[bool]:
    seen = [DBOS.patched(name) for name in names]
    await DBOS.recv("go", timeout_seconds=None)
    return seen + [DBOS.patched(name) for name in names]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("cut", range(1, 6))
async def test_w4_a_fork_goes_the_way_of_what_it_copies(cut: int, place: int, database_url: str) -> None:
    """Each copy ends with new code, whether the original went the old way or the new one."""
    async with deployed(database_url, "old"):
        await start(line, place, workflow_id="old")
        assert await end_of("old", "a", "b") == way(place, is_new=False)
    async with deployed(database_url, "new"):
        await start(line, place, workflow_id="new")
        assert await end_of("new", "a", "b") == way(place, is_new=True)
        expected = {"old": way(place, is_new=cut <= place + 1), "new": way(place, is_new=True)}
        for original, result in expected.items():
            with SetWorkflowID(f"copy of {original}"):
                copy = await DBOS.fork_workflow(original, cut)
            # What was received behind the cut waits again.
            assert await copy.get_result() == result
    async with deployed(database_url, "new", "1"):
        with SetWorkflowID("later"):
            await DBOS.fork_workflow("new", cut, application_version="2")
        assert await patches_of("later") == (("extra",) if cut > max(place, 1) else ())


async def test_w4_a_fork_cut_in_a_task_goes_the_way_of_what_it_copies(database_url: str) -> None:
    where = "behind the first verb of a task"
    async with deployed(database_url, "new"):
        await start(tasks, where)
        await DBOS.send("w", "for a", "a")
        await reaches("w", "0.1.4")
        await DBOS.send("w", "for b", "b")
        await reaches("w", "1")
        result = await end_of("w", "now")
        for cut in ("1", "2", "0.1.1", "0.1.2", "0.1.3", "0.1.4", "0.2.1", "0.2.2", "0.2.3", "0.2.4", "0.1.5"):
            with SetWorkflowID(f"at {cut}"):
                copy = await DBOS.fork_workflow("w", cut)
            assert await copy.get_result(timeout_seconds=20) == result, cut
    async with deployed(database_url, "old"):
        await start(tasks, where, workflow_id="old")
        await DBOS.send("old", "for a", "a")
        await reaches("old", "0.1.3")
    async with deployed(database_url, "new"):
        for cut, ways in (("0.1.3", 0), ("0.1.1", 2), ("1", 2)):
            with SetWorkflowID(f"old at {cut}"):
                copy = await DBOS.fork_workflow("old", cut)
            await DBOS.send(copy.workflow_id, "for b", "b")
            await DBOS.send(copy.workflow_id, "now", "go")
            _, a, b = await copy.get_result(timeout_seconds=20)
            assert sum("new" in text for text in a + b) == ways, cut


async def test_w4_a_late_row_of_the_run_before_takes_the_answer_back(database_url: str, connect: Connect) -> None:
    """A statement of old code was at the server when new code took the workflow over, and is committed then."""
    async with deployed(database_url, "old"):
        await start(late, 1)
        await eventually(lambda: "endless body" in RAN)
    old = await connect()
    transaction = old.transaction()
    await transaction.start()
    async with deployed(database_url, "old"):
        await eventually(lambda: RAN.count("endless body") == 2)
        (attempt,) = await old.fetchrow("select attempt from dbos_async.workflows where id = 'w'")
        row = "w", attempt, "", 1, "step", "endless", '"old way"', None, 0.0
        (answer,) = await execute(old, RECORD, row)
        assert answer["outcome"] == "done"
    async with deployed(database_url, "new"):
        await eventually(lambda: "new way" in RAN)
        assert await patches_of() == ("extra",)
        await transaction.commit()
        assert await end_of("w", "now") == ["old way", "now"]
        assert await patches_of() == ()
    RAN.clear()
    async with deployed(database_url, "old"):
        await start(late, 1, workflow_id="v")
        await eventually(lambda: "endless body" in RAN)
    async with deployed(database_url, "new"):
        assert await end_of("v", "now") == ["new way", "now"]


@DBOS.workflow(name="patched when a statement was under way")
async def late(number: int) -> list[str]:
    return [
        await note("new way") if is_patched() else await endless(),
        await DBOS.recv("go", timeout_seconds=None),
    ]


async def test_w4_a_late_run_stores_no_name(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dbos_async")  # no warning to whoever polls and has seen it
    async with deployed(database_url, "new"):
        for gate in (ASKED, TOLD):
            gate.clear()
        await start(asks_when_told)
        await eventually(ASKED.is_set)
        await connection.execute("update dbos_async.workflows set attempt = attempt + 1 where id = 'w'")
        TOLD.set()

        async def is_stopped() -> bool:
            return "another run has taken it over" in caplog.text

        await eventually(is_stopped)
        assert await patches_of() == ()
        assert RAN == []


ASKED, TOLD = asyncio.Event(), asyncio.Event()


@DBOS.workflow(name="patched by a late run")
async def asks_when_told() -> None:
    DBOS.patched("late")
    ASKED.set()
    await TOLD.wait()
    await note("too late")


async def fits(url: str, workflow_id: str) -> bool:
    """Whether the code of today fits what is recorded."""
    return (await replay_workflow(url, workflow_id, registered)).fits


async def test_w4_a_replay_that_stores_nothing_goes_the_way_of_the_next_run(database_url: str, connection: Any) -> None:
    async with deployed(database_url, "old"):
        for place in range(5):
            await start(line, place, workflow_id=f"old {place}")
            await reaches(f"old {place}", "2")
    async with deployed(database_url, "new"):
        for place in range(5):
            await start(line, place, workflow_id=f"new {place}")
            await reaches(f"new {place}", "3" if place <= 1 else "2")
    rows = await connection.fetch("select * from dbos_async.workflows order by id")
    ways = {}
    for place in range(5):
        for workflow_id in (f"old {place}", f"new {place}"):
            CODE["is"] = "new"
            assert await fits(database_url, workflow_id)
            CODE["is"] = "last"
            ways[workflow_id] = await fits(database_url, workflow_id)
    assert await connection.fetch("select * from dbos_async.workflows order by id") == rows
    # The old way is needed where it was gone. Behind that all fit.
    assert [workflow_id for workflow_id, fit in ways.items() if not fit] == ["old 0", "old 1"]


async def test_w4_what_is_exported_has_the_names(database_url: str) -> None:
    async with deployed(database_url, "new"):
        await start(line, 1)
        await reaches("w", "3")
        exported = [row async for kind, row in export_workflow(launched.database(), "w") if kind == "workflow"]
    assert json.loads(exported[0])["patches"] == {"extra": {"branch": "", "number": 1, "asked_after": None}}
