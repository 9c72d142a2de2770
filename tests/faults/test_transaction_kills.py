"""T1: processes that are killed in transactional steps, and those that take over."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.transactions import written

ROOT = Path(__file__).parent.parent.parent


async def run(url: str, kind: str, *crash: str) -> tuple[int | None, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.programs.transact", url, kind, *crash,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), err.decode()
    return process.returncode, json.loads(out) if process.returncode == 0 else None


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("moment", ["body", "record", "commit", "after"])
@pytest.mark.parametrize("kind", ["asyncpg", "sqlalchemy"])
async def test_t1_a_process_killed_in_a_transaction_leaves_all_of_it_or_nothing(
    database_url: str, connection: Any, kind: str, moment: str, at: int
) -> None:
    await connection.execute("create table notes (what text)")
    code, _ = await run(database_url, kind, moment, str(at))
    assert code == -signal.SIGKILL
    code, story = await run(database_url, kind)
    assert code == 0
    counts, received = story
    assert received == await written(connection) == ["a", "b", "c", "d"]
    assert (counts[0], counts[3]) == (1, 4)
