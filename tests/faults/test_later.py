"""Processes that are killed around everything that is delayed (C4)."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOS, DBOSClient, SendMessage, SetWorkflowID
from dbos_async._lifecycle import periodic
from tests.support.crashing import run
from tests.support.eventually import eventually
from tests.support.processes import running

STEPS = 20


def check(story: dict[str, Any], file: Path) -> None:
    result = story["result"]
    got = [name for name in result["got"] if name != "alone"]
    assert (got, len(result["got"])) == (["first", "second", "third"], 4)
    assert result["results"] == [[0, 1, 2], ["delayed"]]
    assert result["none"] is None
    verbs = Counter(step[2] for step in story["steps"] if step[0] == "w")
    assert verbs == Counter(
        now=1, random=1, uuid=1, step=1, send=2, send_bulk=1, start_and_send=3, start_workflow=1, sleep=1, recv=5,
        retrieve_workflow=1, get_result=2, **{"get_status": 1} if "get_status" in verbs else {},
    ) - Counter(**{"retrieve_workflow": 1} if "get_status" in verbs else {})  # fmt: skip
    told = re.findall(r'"([^"]*) ([^"]*) ([^"]*)", 0', file.read_text())
    assert {(float(number), key) for _, number, key in told} == {(result["number"], result["key"])}
    assert len({moment for moment, _, _ in told}) == 1


@pytest.mark.parametrize("at", range(1, STEPS))
@pytest.mark.parametrize("mode", ["before", "after"])
async def test_c4_a_workflow_killed_at_any_step_sends_and_starts_once(
    database_url: str, tmp_path: Path, mode: str, at: int
) -> None:
    file = tmp_path / "ran"
    code, _ = await run(database_url, "later", file, mode, str(at))
    assert code == -signal.SIGKILL
    code, story = await run(database_url, "later", file)
    assert story is not None
    check(story, file)


@pytest.mark.parametrize("at", range(5, 12))
async def test_c4_a_workflow_killed_while_a_statement_is_under_way(database_url: str, tmp_path: Path, at: int) -> None:
    file = tmp_path / "ran"
    _, story = await run(database_url, "later", file, "during", str(at))
    if story is None:
        _, story = await run(database_url, "later", file)
    assert story is not None
    check(story, file)


@DBOS.workflow(name="collects what was delayed")
async def collects(count: int) -> list[int]:
    return [await DBOS.recv("t", None) for _ in range(count)]


COUNT = 2000


async def test_c4_of_two_executors_that_move_messages_one_is_killed(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is moved once, in the order of the due times, by whoever comes first."""
    monkeypatch.setattr(periodic, "MAX_DUE", 20)
    async with running("executor", database_url, "other", 0) as program:
        await eventually(lambda: connection.fetchval("select count(*) from dbos_async.executors"))
        async with DBOS(database_url), DBOSClient(database_url) as client:
            with SetWorkflowID("w"):
                handle = await DBOS.start_workflow(collects, COUNT)
            for n in range(0, COUNT, 500):
                messages = [SendMessage("w", n + m, "t", delay_seconds=(n + m) * 0.001 + 0.5) for m in range(500)]
                await client.send_bulk(messages)
            await eventually(lambda: connection.fetchval("select count(*) > 200 from dbos_async.messages"))
            program.process.send_signal(signal.SIGKILL)
            async with asyncio.timeout(60):
                got = await handle.get_result()
    assert sorted(got) == list(range(COUNT))
    due = await connection.fetch("select payload::text::int as n from dbos_async.messages order by seq")
    assert got == [row["n"] for row in due]
    assert got == list(range(COUNT))
