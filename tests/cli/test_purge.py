"""``dbos-async purge``."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
from contextlib import suppress
from typing import Any

import pytest

from dbos_async._operations.purge import MAX_REMOVED
from tests.cli.running import Command, process
from tests.support.eventually import eventually
from tests.support.populations import Life, all_rows, ids, make, without
from tests.support.troubles import holding, lock_row

pytestmark = pytest.mark.newest_only  # the verb is tested on both versions elsewhere

DAY = 86400.0


@pytest.fixture
async def population(connection: Any) -> None:
    """Two old ones, one that has failed, one of another name, one that is not old and one that runs."""
    await make(
        connection,
        Life("one", ended_ago=40 * DAY), Life("two", ended_ago=31 * DAY), Life("failed", ended_ago=50 * DAY, status="ERROR"),
        Life("other", ended_ago=60 * DAY, name="g"), Life("young", ended_ago=29 * DAY),
        Life("runs", status="PENDING", ended_ago=None, lasted=90 * DAY),
    )  # fmt: skip


@pytest.mark.usefixtures("population")
async def test_t3_purge_removes_what_is_old_and_says_how_many(connection: Any, command: Command) -> None:
    before = await all_rows(connection)
    done = (await command("purge", "--older-than", "30d", "--dry-run")).check(0)
    assert done.lines == ["It would remove 4 workflows. Nothing was changed."]
    assert (await command("purge", "--older-than", "30d", "--dry-run", "--json")).json == {"dry_run": True, "count": 4}
    (await command("purge", "--older-than", "30d")).check(
        2, "It would remove 4 workflows that ended more than 30d ago: without"
    )
    assert await all_rows(connection) == before
    done = (
        await command("purge", "--older-than", "30d", "--status", "success", "--name", "f", "--yes", "--json")
    ).check(0)
    assert done.json == {"count": 2, "left": 0, "reason": None}
    assert await all_rows(connection) == without(before, "one", "two")
    assert (await command("purge", "--older-than", "30d", "--limit", "1", "--yes")).check(0).lines == [
        "removed 1 workflow"
    ]
    assert await ids(connection) == ["failed", "runs", "young"], "the oldest first"
    assert (await command("purge", "--older-than", "4w", "--per-second", "5", "-y")).check(0).lines == [
        "removed 2 workflows"
    ]
    assert (await command("purge", "--older-than", "1s")).check(0).lines == ["removed 0 workflows"]
    assert await all_rows(connection) == without(before, "one", "two", "failed", "other", "young")


@pytest.mark.usefixtures("population")
async def test_t3_purge_says_what_it_has_left(database_url: str, connection: Any, command: Command) -> None:
    async with holding(database_url, lock_row("workflows", "id", "two")):
        done = (await command("purge", "--older-than", "30d", "--name", "f", "--yes")).check(0)
    assert done.lines == ["removed 2 workflows"]
    assert done.err == "Left 1 workflow for now: other transactions held their rows at that moment.\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--older-than"),
        (["--older-than", "soon"], "--older-than must be a time such as 90s, 15m, 1h, 2d or 1w and is 'soon'"),
        (["--older-than", "99999w"], "older_than must be a timedelta or a number of seconds"),
        (
            ["--older-than", "1d", "--status", "pending"],
            "status must be one of SUCCESS, ERROR, CANCELLED and is 'PENDING'",
        ),
        (["--older-than", "1d", "--limit", "0"], "--limit"),
        (["--older-than", "1d", "--name", ""], "name must not be empty"),
    ],
)
@pytest.mark.usefixtures("population")
async def test_t3_a_command_line_that_is_wrong_removes_nothing(
    connection: Any, command: Command, arguments: list[str], sentence: str
) -> None:
    before = await all_rows(connection)
    (await command("purge", "--yes", *arguments)).check(2, sentence)
    assert await all_rows(connection) == before


def on_a_terminal(url: str, answer: bytes) -> str:
    """What a purge says on a terminal where its question is answered so."""
    ours, theirs = pty.openpty()
    purging = process(
        url, "purge", "--older-than", "30d", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # the command has ended
        while b"[y/N]" not in said:
            said += os.read(ours, 4096)
        os.write(ours, answer)
        while True:
            said += os.read(ours, 4096)
    os.close(ours)
    purging.wait(timeout=30)
    return said.decode()


@pytest.mark.usefixtures("population")
async def test_t3_purge_asks_on_a_terminal(database_url: str, connection: Any) -> None:
    said = await asyncio.to_thread(on_a_terminal, database_url, b"n\n")
    assert "Remove 4 workflows that ended more than 30d ago?" in said
    assert "Nothing was changed" in said
    assert len(await ids(connection)) == 6
    assert "removed 4 workflows" in await asyncio.to_thread(on_a_terminal, database_url, b"y\n")
    assert await ids(connection) == ["runs", "young"]


@pytest.mark.direct("it waits until the connections of a process have gone from pg_stat_activity")
async def test_t3_ctrl_c_ends_a_purge_and_says_how_far_it_was(database_url: str, connection: Any) -> None:
    await make(connection, *[Life(str(n)) for n in range(500)])
    before = await all_rows(connection)
    purging = process(database_url, "purge", "--older-than", "1m", "--per-second", "100", "--yes")
    await eventually(lambda: connection.fetchval("select count(*) < 400 from dbos_async.workflows"))
    purging.send_signal(signal.SIGINT)
    _, said = await asyncio.to_thread(purging.communicate)
    assert purging.returncode == 130
    ours = "application_name = 'dbos_async' and datname = current_database()"
    await eventually(lambda: connection.fetchval(f"select count(*) = 0 from pg_stat_activity where {ours}"))
    left = set(await ids(connection))
    told = re.fullmatch(r"Removed at least (\d+) workflows until then\.\n", said)
    assert told is not None, said
    assert 500 - len(left) - MAX_REMOVED <= int(told[1]) <= 500 - len(left), (
        "one transaction may have been at the server"
    )
    assert await all_rows(connection) == without(before, *({str(n) for n in range(500)} - left))
