"""What operators are shown of a workflow that continues as new (T2)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dbos_async import DBOS
from dbos_async._executor.continuing import NextGeneration
from dbos_async._executor.launched import database as dbos_database
from dbos_async._operations.export import export_workflow
from dbos_async._operations.replay import replay_workflow
from dbos_async._workflows.registry import registered
from tests.cli.running import Command, command_of
from tests.support.eventually import eventually
from tests.support.generations import collect, generation, send_all, start
from tests.support.page_app import Visitor, mounted

pytestmark = pytest.mark.newest_only  # what is shown does not depend on the version


@pytest.fixture
def command(database_url: str) -> Command:
    return command_of(database_url)


async def is_generation(number: int) -> bool:
    return await generation() == number


async def test_t2_the_generation_is_shown(dbos: DBOS, command: Command) -> None:
    await start(collect, 1, [])
    await send_all([1, 2])
    await eventually(lambda: is_generation(3))
    shown = (await command("workflows", "show", "w", columns=140)).check(0)
    assert "generation 3" in shown.lines[2]
    told = json.loads((await command("workflows", "list", "--json")).check(0).out)
    assert [each["generation"] for each in told] == [3]
    async with Visitor(mounted()) as visitor:
        page = (await visitor.see("workflow?id=w")).source
    assert "<dt>generation</dt><dd>3</dd>" in page


async def test_t2_an_export_has_the_present_generation(dbos: DBOS) -> None:
    await start(collect, 1, [])
    await DBOS.send("w", 1, "inbox", idempotency_key="k")
    await eventually(lambda: is_generation(2))
    await eventually(lambda: _steps(1))
    rows = [(kind, json.loads(row)) async for kind, row in export_workflow(dbos_database(), "w")]
    assert [kind for kind, _ in rows] == ["workflow", "step", "step", "message"]
    assert [row["number"] for kind, row in rows if kind == "step"] == [-1, 1]
    assert rows[-1][1]["idempotency_key"] == "k"


async def _steps(count: int) -> bool:
    return len(await DBOS.list_workflow_steps("w")) == count


async def test_t2_a_replay_tells_that_the_code_continues(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(NextGeneration, "store", lambda end: held.append(end))  # noqa: PLW0108 - a method  # the process dies before the commit
        async with DBOS(database_url, drain_seconds=0):
            await start(collect, 1, [])
            await send_all([1])
            await eventually(lambda: held)
    found = await replay_workflow(database_url, "w", registered)
    assert found.fits
    assert found.says == "All that is recorded was replayed, and the code continues as new."
    async with DBOS(database_url):
        await send_all([0])
        assert await (await DBOS.retrieve_workflow("w")).get_result() == [1, -2]
