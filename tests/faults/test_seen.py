"""What failed is seen: in the log, in the status of workflows and in the list of their steps."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from dbos_async import DBOS, InvalidMessageError, SetWorkflowID, Topic
from dbos_async._executor import launched
from tests.support.eventually import eventually
from tests.support.proxy import Proxy
from tests.support.workflows import echo, wait_for_ever

NUMBER = Topic("number", int)
TRIED: list[int] = []


@DBOS.step(name="fragile", retries_allowed=True, max_attempts=3, interval_seconds=0.01)
async def fragile() -> str:
    TRIED.append(1)
    if len(TRIED) < 3:
        raise ConnectionError("the shop is closed.\nCRITICAL:root:forged")
    return "done"


@DBOS.workflow()
async def call_fragile() -> str:
    return await fragile()


@DBOS.workflow()
async def read_number() -> Any:
    try:
        return await DBOS.recv(NUMBER)
    except InvalidMessageError:
        return await DBOS.recv("number")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """The lines of the log that have a text in them, as ``LEVEL text``."""
    caplog.set_level(logging.INFO, "dbos_async")
    return lambda text: [f"{r.levelname} {r.getMessage()}" for r in caplog.records if text in r.getMessage()]


async def test_d5_a_retried_step_tells_its_error_attempt_and_pause(dbos: DBOS, lines: Any) -> None:
    TRIED.clear()
    with SetWorkflowID("w"):
        assert await call_fragile() == "done"
    assert lines("fragile") == [
        f"WARNING Step 'fragile' of workflow 'w' failed in attempt {n} of 3 and is tried again in {pause} s: "
        "ConnectionError: the shop is closed.\\nCRITICAL:root:forged"
        for n, pause in ((1, "0.01"), (2, "0.02"))
    ]


async def test_d2_a_rejected_message_is_logged_once(dbos: DBOS, lines: Any) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(read_number)
    await DBOS.send("w", "seven", "number")
    await eventually(lambda: lines("cannot read"))
    (message,) = await DBOS.list_messages("w", status="rejected")
    await DBOS.cancel_workflow("w")
    await DBOS.resume_workflow("w")
    await DBOS.send("w", 7, NUMBER)
    assert await handle.get_result() == 7
    (line,) = lines("cannot read")
    assert line.startswith("WARNING Workflow 'w' cannot read what recv 'number' (1) has brought: The received message")
    assert str(message.id) in line
    assert not line.endswith("..")


async def test_d5_launch_and_the_return_of_the_database_are_one_line_each(database_url: str, lines: Any) -> None:
    async with Proxy(database_url) as proxy:
        async with DBOS(proxy.url, executor_id="till", application_version="7"):
            (line,) = lines("is launched")
            assert line.startswith("INFO DBOS ")
            assert "as executor 'till' of version '7' on postgresql://" in line
            assert "workflows registered, lease of 15 s." in line
            proxy.refuse()
            waiting = asyncio.create_task(DBOS.list_workflows())
            await eventually(lambda: lines("unavailable") + lines("lost the database"))
            assert not lines("is back")
            await proxy.heal()
            await waiting
            await eventually(lambda: lines("is back"))
            await eventually(_is_well)
        (line,) = lines("is back")
        assert line.startswith("INFO The database is back after ")


async def _is_well() -> bool:
    return (await DBOS.health()).ok


async def test_d5_no_password_is_in_the_line_of_the_launch(database_url: str, lines: Any) -> None:
    scheme, _, rest = database_url.partition("://")
    user, at, host = rest.rpartition("@")
    url = f"{scheme}://{user.partition(':')[0] or 'postgres'}:sesam{at or '@'}{host}"
    async with DBOS(url):
        (line,) = lines("is launched")
    assert "sesam" not in line


async def test_w2_the_executor_of_a_workflow_is_seen_after_its_end(dbos: DBOS) -> None:
    me = launched.executor().id
    handle = await DBOS.start_workflow(echo, 1)
    await handle.get_result()
    assert (await handle.get_status()).executor_id == me
    handle = await DBOS.start_workflow(wait_for_ever)
    await DBOS.cancel_workflow(handle.workflow_id)
    assert (await handle.get_status()).executor_id == me
    await DBOS.resume_workflow(handle.workflow_id)
    await eventually(lambda: handle.workflow_id in launched.executor().runs)
    assert (await handle.get_status()).executor_id == me
