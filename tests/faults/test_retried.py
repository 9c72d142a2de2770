"""A step with retries, killed at each of its boundaries: promises W2 and W5."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import running
from tests.support.programs.retried import PLACES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")

ATTEMPTS = ["1", "2", "2"]


@pytest.mark.parametrize("place", PLACES)
async def test_w2_a_step_with_retries_that_was_killed_begins_with_its_first_attempt_unless_it_is_recorded(
    database_url: str, connection: Any, tmp_path: Path, place: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for file in (first, second):
        file.touch()
    async with running("retried", database_url, first, *place.split()) as program:
        assert await program.code() == -signal.SIGKILL, program.errors
    is_recorded = place == "after the record"
    keys = [row["key"] for row in await connection.fetch("select key from dbos_async.steps order by number")]
    assert keys == (["before", "retried effort"] if is_recorded else ["before"])
    begun = {"attempt 1": 1, "predicate 1": 1, "pause 1": 1, "attempt 2": 2, "pause 2": 2, "waits for its turn": 0}
    assert first.read_text().split() == ATTEMPTS[: begun.get(place, 3)]

    async with running("retried", database_url, second) as program:
        await program.says("['before', 3, 2]")
        assert await program.code() == 0, program.errors
    assert second.read_text().split() == ([] if is_recorded else ATTEMPTS)
    rows = await connection.fetch("select key, output from dbos_async.steps order by number")
    assert [tuple(row) for row in rows[:2]] == [("before", '"before"'), ("retried effort", "[3,2]")]
    assert len(rows) == 3
