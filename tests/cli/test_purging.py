"""``purge`` from the command line."""

from __future__ import annotations

import pytest

from dbos_async import DBOS
from tests.cli.running import Command
from tests.cli.workflows import ended, fail, greet, started, wait

pytestmark = pytest.mark.newest_only  # purging is tested on both versions elsewhere


async def ids() -> list[str]:
    return [one.workflow_id for one in await DBOS.list_workflows(payloads=False)]


async def test_it_removes_what_ended_and_nothing_else(dbos: DBOS, command: Command) -> None:
    for number in range(3):
        await ended(f"g-{number}", greet)
    await ended("f", fail)
    await started("w", wait)
    done = (await command("purge", "--older-than", "0s", "--dry-run")).check(0)
    assert done.out == "would remove 4 workflows\n"
    assert (await command("purge", "--older-than", "1h", "--yes")).check(0).out == "removed 0 workflows\n"
    (await command("purge", "--older-than", "0s")).check(2, "Without a terminal, say --yes")
    assert len(await ids()) == 5
    done = (
        await command("purge", "--older-than", "0s", "--status", "success", "--limit", "2", "--yes", "--json")
    ).check(0)
    assert (done.json["count"], done.json["dry_run"]) == (2, False)
    assert sorted(await ids()) == ["f", "g-2", "w"]
    assert (await command("purge", "--older-than", "0s", "--name", "cli-fail", "-y")).check(
        0
    ).out == "removed 1 workflow\n"
    assert sorted(await ids()) == ["g-2", "w"]


async def test_it_goes_on_slice_by_slice(dbos: DBOS, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbos_async._cli import purging

    monkeypatch.setattr(purging, "SLICE", 3)
    for number in range(10):
        await ended(f"g-{number}", greet)
    assert (await command("purge", "--older-than", "0s", "--yes", "--limit", "7")).check(
        0
    ).out == "removed 7 workflows\n"
    assert (await command("purge", "--older-than", "0s", "--yes")).check(0).out == "removed 3 workflows\n"
    assert await ids() == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--older-than"),
        (["--older-than", "long"], "--older-than must be a time"),
        (["--older-than", "1d", "--status", "pending"], "status must be one of"),
        (["--older-than", "1d", "--limit", "0"], "--limit"),
    ],
)
async def test_wrong_options_are_named(database_url: str, command: Command, options: list[str], sentence: str) -> None:
    (await command("purge", "--yes", *options)).check(2, sentence)
