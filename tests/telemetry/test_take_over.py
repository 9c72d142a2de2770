"""A workflow that is taken over from another process."""

from __future__ import annotations

import signal

import pytest

from dbos_async import DBOS
from tests.support.processes import running
from tests.support.programs import traced
from tests.support.telemetry import Exported, attributes, id_of, links_of, parent_of

pytestmark = pytest.mark.newest_only  # telemetry does not depend on the version of Postgres

TRACE_ID, SPAN_ID = 17, 4


async def test_the_run_that_takes_over_is_linked_to_the_trace_of_the_start(
    exported: Exported, database_url: str
) -> None:
    async with running("traced", database_url, "mortal", TRACE_ID, SPAN_ID) as program:
        await program.says("waits")
        await program.end(signal.SIGKILL)
    async with DBOS(database_url, executor_id="mortal"):
        await DBOS.send("traced", None, "go")
        handle = await DBOS.retrieve_workflow("traced")
        assert await handle.get_result() == 2
        assert exported.value("dbos_async.takeovers", dbos_async__workflow__name=traced.traced.name) == 1
    run = exported.spans("workflow traced workflow")[0]
    assert parent_of(run) is None
    assert links_of(run) == [SPAN_ID]
    assert attributes(run)["dbos_async.workflow.attempt"] == 2
    (step,) = exported.spans("step traced step")  # the one that this process has executed
    assert attributes(step)["dbos_async.step.path"] == "3"
    assert parent_of(step) == id_of(run)
