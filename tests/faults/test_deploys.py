"""Processes with old code die at the boundaries of steps, and processes with new code take over (W2, W4)."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from dbos_async._operations.replay import replay_workflow
from dbos_async._workflows.registry import registered
from tests.replay.crashes import MODES
from tests.support.patched import CODE, PLACES, way
from tests.support.processes import running

BOUNDARIES = 46
"""How many steps the workflows have, at most."""


async def life(url: str, code: str, *crash: object) -> dict[str, Any] | None:
    """One life of the program: how its workflows ended, ``None`` if it died."""
    async with running("patching", url, code, *crash) as program:
        out, _ = await program.process.communicate()
        if program.process.returncode == 0:
            found: dict[str, Any] = json.loads(out)
            return found
        assert program.process.returncode == -signal.SIGKILL, program.errors
        return None


async def ids(connection: Any, condition: str) -> set[str]:
    """The workflows of which this is so."""
    return {row["id"] for row in await connection.fetch(f"select id from dbos_async.workflows where {condition}")}


@pytest.mark.parametrize("at", range(1, BOUNDARIES, 4))
async def test_w2_w4_new_code_takes_over_where_old_code_has_died(at: int, database_url: str, connection: Any) -> None:
    await life(database_url, "old", MODES[at % 3], at)
    counts = await connection.fetch("select workflow_id, count(*) from dbos_async.steps group by 1")
    recorded = dict[str, int](counts)
    over = await ids(connection, "ended_at is not null")
    await life(database_url, "new", MODES[at // 3 % 3], 1 + at * 7 % BOUNDARIES)
    ended = await life(database_url, "new")
    assert ended is not None
    patched = await ids(connection, "patches ? 'extra'")
    assert not over & patched
    for place in range(5):
        name = f"line {place}"
        is_new = name in patched
        assert ended[name] == way(place, is_new=is_new)
        assert is_new == (name not in over and recorded.get(name, 0) <= place)
    for where in PLACES:
        main, a, b = ended[where]
        new = [text for text in (*main, *a, *b) if text.startswith("new way")]
        assert len(new) == (where in patched) * (2 if where.endswith("a task") else 1)
        if where in ("before the tasks", "before the first verb of a task") or where not in recorded:
            assert (where in patched) == (where not in recorded)
    CODE["is"] = "new"
    for workflow_id in ended:
        found = await replay_workflow(database_url, workflow_id, registered)
        assert found.fits or workflow_id in over, found
