"""Replaying what is recorded against the code of today, without executing or storing anything."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, InvalidArgumentError, LaunchError, SetWorkflowID, Stream, Topic, WorkflowNotFoundError
from dbos_async._operations.replay import Replay, replay_workflow
from dbos_async._workflows.registry import registered
from tests.cli.running import process
from tests.replay.judge import SAME
from tests.replay.kinds import EXACT, ORDERED
from tests.replay.lane import lane, side_by_side
from tests.replay.maker import make
from tests.support.eventually import eventually

TABLES = ("workflows", "steps", "messages", "delayed_messages", "events", "stream_entries", "executors", "retention")
NUMBER = Topic("number", int)
TEXT = Topic("number", str)
WORDS = Stream("words", str)


async def contents(url: str) -> dict[str, str]:
    """A digest of each table."""
    connection = await asyncpg.connect(url)
    try:
        return {
            table: hashlib.sha256(
                repr(sorted(map(repr, await connection.fetch(f"select * from dbos_async.{table}")))).encode()
            ).hexdigest()
            for table in TABLES
        }
    finally:
        await connection.close()


async def replayed(url: str, workflow_id: str, other: Mapping[str, Any] | None = None) -> Replay:
    """The replay of a workflow, which changes nothing in any table."""
    before = await contents(url)
    found = await replay_workflow(url, workflow_id, {**registered, **(other or {})})
    assert await contents(url) == before
    return found


called: list[str] = []


@DBOS.step()
async def replay_charge(cents: int) -> int:
    called.append(f"charge {cents}")
    return cents


@DBOS.step()
async def replay_ship() -> str:
    called.append("ship")
    return "shipped"


@DBOS.workflow()
async def replay_order(cents: int) -> str:
    await DBOS.set_event("state", "begun")
    paid = await DBOS.recv(NUMBER, timeout_seconds=None)
    assert paid == cents
    await replay_charge(cents)
    async with DBOS.stream_writer(WORDS) as out:
        await out.write("a")
        await out.flush()
        await out.write("b")
    await DBOS.recv("ship", timeout_seconds=None)
    return await replay_ship()


@DBOS.workflow()
async def replay_reader(whose: str) -> list[str]:
    return [word async for word in DBOS.read_stream(whose, WORDS)]


async def waits_for(workflow_id: str, key: str) -> None:
    async def holds() -> bool:
        return [wait.key for wait in (await DBOS.describe_workflow(workflow_id)).waits] == [key]

    await eventually(holds)


async def make_order(url: str, *, to_its_end: bool) -> None:
    called.clear()
    async with DBOS(url):
        with SetWorkflowID("order"):
            handle = await DBOS.start_workflow(replay_order, 5)
        await DBOS.send("order", 5, NUMBER)
        await waits_for("order", "ship")
        if to_its_end:
            await DBOS.send("order", None, "ship")
            await handle.get_result()
            with SetWorkflowID("reader"):
                await replay_reader("order")


async def test_what_goes_on_is_replayed_to_where_it_stands(database_url: str) -> None:
    await make_order(database_url, to_its_end=False)
    called.clear()
    found = await replayed(database_url, "order")
    assert (found.fits, found.status) == (True, "PENDING")
    assert found.frontier is not None
    assert found.frontier.startswith("recv 'ship' (")
    assert found.says == f"All that is recorded was replayed, and the code asks for {found.frontier} next."
    assert called == []


async def test_what_has_ended_is_replayed_to_its_end(database_url: str) -> None:
    await make_order(database_url, to_its_end=True)
    called.clear()
    for workflow_id in ("order", "reader"):
        found = await replayed(database_url, workflow_id)
        assert found.says == "All that is recorded was replayed, and the code ends in SUCCESS."
        assert (found.fits, found.frontier) == (True, None)
    assert called == []


class Other:
    """Code of today that is not what was recorded: stands in for the registered function."""

    max_recovery_attempts = 50

    def __init__(self, function: Any) -> None:
        self.function = function
        self.signature = registered["replay_order"].signature


async def asks_for_other_steps(cents: int) -> str:
    await DBOS.set_event("state", "begun")
    return await replay_ship()


async def reads_another_type(cents: int) -> str:
    await DBOS.set_event("state", "begun")
    return str(await DBOS.recv(TEXT, timeout_seconds=None))


async def returns_something_else(cents: int) -> str:
    return f"{await replay_order.function(cents)} twice"


async def ends_early(cents: int) -> str:
    await DBOS.set_event("state", "begun")
    raise ValueError("no more orders")


async def asks_for_one_more_step(cents: int) -> str:
    await replay_order.function(cents)
    return await replay_ship()


async def waits_for_something_else(cents: int) -> str:
    await asyncio.Event().wait()
    return ""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            asks_for_other_steps,
            "Step 2 of workflow 'order' was recorded as recv 'number' and the code now asks for step",
        ),
        (reads_another_type, "a type that it does not fit"),
        (returns_something_else, "has ended in SUCCESS, and the code returns another result"),
        (ends_early, "has ended in SUCCESS, and the code ends in ERROR (ValueError: no more orders)"),
        (asks_for_one_more_step, "has ended in SUCCESS, and the code asks for one more step: step 'replay_ship'"),
    ],
)
async def test_code_that_does_not_fit_is_named(database_url: str, function: Any, says: str) -> None:
    await make_order(database_url, to_its_end=True)
    called.clear()
    found = await replayed(database_url, "order", {"replay_order": Other(function)})
    assert not found.fits
    assert says in found.says
    assert called == []


async def test_a_replay_that_waits_for_something_else_ends_in_time(database_url: str) -> None:
    await make_order(database_url, to_its_end=False)
    found = await replay_workflow(
        database_url, "order", {"replay_order": Other(waits_for_something_else)}, timeout_seconds=0.5
    )
    assert (found.fits, found.says.startswith("The replay has not come to an end within 0.5 seconds")) == (False, True)


async def test_errors_of_a_replay_are_one_sentence(database_url: str) -> None:
    await make_order(database_url, to_its_end=False)
    with pytest.raises(WorkflowNotFoundError):
        await replay_workflow(database_url, "nowhere", registered)
    with pytest.raises(InvalidArgumentError, match="'replay_order', which is not registered here"):
        await replay_workflow(database_url, "order", {})
    async with DBOS(database_url):
        with pytest.raises(LaunchError, match="in a process of its own"):
            await replay_workflow(database_url, "order", registered)


async def test_w4_random_programs_are_replayed_without_a_change(database_url: str) -> None:
    kinds = tuple(EXACT | ORDERED)
    programs = [make(kinds[number % len(kinds)], f"replayed/{number}") for number in range(24)]
    async with lane(database_url, most_crashes=2) as player:
        verdicts = [verdict async for verdict in side_by_side(player.play, programs)]
    assert {verdict.outcome for verdict in verdicts} == {SAME}
    connection = await asyncpg.connect(database_url)
    ids = [record[0] for record in await connection.fetch("select id from dbos_async.workflows order by id")]
    await connection.close()
    before = await contents(database_url)
    found = [await replay_workflow(database_url, workflow_id, registered) for workflow_id in ids]
    assert await contents(database_url) == before
    assert [one.says for one in found if not one.fits] == []
    assert len(found) > len(programs)


MODULE = """
from dbos_async import DBOS

@DBOS.step()
async def charge():
    return 1

@DBOS.workflow()
async def shop():
    await {call}
    await DBOS.recv("go", timeout_seconds=None)
"""
PROGRAM = """
import asyncio, sys
from dbos_async import DBOS, SetWorkflowID
import shop

async def main():
    async with DBOS(sys.argv[1]):
        with SetWorkflowID("w"):
            await DBOS.start_workflow(shop.shop)
        while not (await DBOS.describe_workflow("w")).waits:
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


async def test_the_command_says_whether_the_code_fits(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(MODULE.format(call="charge()"))
    (tmp_path / "changed.py").write_text(MODULE.format(call="DBOS.sleep(0)"))
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    (tmp_path / "program.py").write_text(PROGRAM)

    async def ran(*arguments: str) -> tuple[int, str, str]:
        running = process(database_url, "workflows", "replay", *arguments, cwd=tmp_path)
        out, err = await asyncio.to_thread(running.communicate)
        return running.returncode, out, err

    made = await asyncio.create_subprocess_exec(
        sys.executable, "program.py", database_url, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    assert await made.wait() == 0
    code, out, err = await ran("w", "shop")
    assert (code, err) == (0, "")
    assert "✓ w  All that is recorded was replayed, and the code asks for recv 'go' (2) next." in out
    code, out, err = await ran("w", "changed.py", "--json")
    assert code == 5
    assert '"fits": false' in out
    code, _, err = await ran("w", "broken")
    assert (code, err.count("\n")) == (2, 1)
    assert "broken cannot be imported: ModuleNotFoundError" in err
    code, _, err = await ran("w", "nowhere.py")
    assert (code, "there is no file nowhere.py" in err) == (2, True)
    code, _, err = await ran("nothing", "shop")
    assert (code, err.count("\n")) == (3, 1)
