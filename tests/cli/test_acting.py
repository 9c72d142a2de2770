"""``workflows start · cancel · resume · fork · delete``."""

from __future__ import annotations

import pytest

from dbos_async import DBOS
from tests.cli.running import Command
from tests.cli.workflows import HOSTILE, ended, fail, greet, have_children, started, wait, waits
from tests.support.eventually import eventually

pytestmark = pytest.mark.newest_only  # the verbs are tested on both versions elsewhere


async def status(workflow_id: str) -> str:
    return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).status


@pytest.mark.parametrize(
    ("arguments", "stdin", "result"),
    [
        ([], None, "hello you"),
        (["Ada"], None, "hello Ada"),
        (["Ada", "2"], None, "hello hello Ada"),
        (["name=Ada", "times:=2"], None, "hello hello Ada"),
        (["Ada", "times:=3"], None, "hello hello hello Ada"),
        (["-"], '{"name": "Bob"}', "hello Bob"),
        (["-"], '["Bob", 2]', "hello hello Bob"),
        (["-", "times:=2"], '{"name": "Bob"}', "hello hello Bob"),
    ],
)
async def test_start_takes_arguments(
    dbos: DBOS, command: Command, arguments: list[str], stdin: str | None, result: str
) -> None:
    done = (await command("workflows", "start", "cli-greet", *arguments, "--wait", stdin=stdin)).check(0)
    assert done.json == result


async def test_start_prints_the_id(dbos: DBOS, command: Command) -> None:
    done = (await command("workflows", "start", "cli-greet", "--id", "g-1", "--version", "7")).check(0)
    assert done.out == "g-1\n"
    found = (await (await DBOS.retrieve_workflow("g-1")).get_status()).application_version
    assert found == "7"
    done = (await command("workflows", "start", "cli-greet", "--json", "--delay", "1h")).check(0)
    assert await status(done.json["workflow_id"]) == "DELAYED"
    (await command("workflows", "start", "cli-wait", "--id", "g-1")).check(6, "cannot be started as 'cli-wait'")


async def test_start_says_how_it_ended(dbos: DBOS, command: Command) -> None:
    done = (await command("workflows", "start", "cli-fail", "--wait")).check(
        5, "it is ERROR in ValueError: no such item"
    )
    done = (await command("workflows", "start", "cli-fail", "--wait", "--json")).check(5)
    assert (done.json["status"], done.json["error"]["message"]) == ("ERROR", "no such item")
    (await command("workflows", "start", "cli-wait", "--timeout", "0.1s")).check(4, "did not end within 0.1 seconds")


async def test_cancel_resume_and_delete_by_ids(dbos: DBOS, command: Command) -> None:
    for workflow_id in ("w-1", "w-2"):
        await started(workflow_id, wait)
    done = (await command("workflows", "cancel", "w-1", "w-2")).check(0)
    assert done.lines == ["cancelled  w-1", "cancelled  w-2"]
    assert await status("w-1") == "CANCELLED"
    assert "it had ended before" in (await command("workflows", "cancel", "w-1")).check(0).err
    (await command("workflows", "resume", "w-1")).check(0)
    assert await status("w-1") == "PENDING"
    assert "needs no resuming" in (await command("workflows", "resume", "w-1")).check(0).err
    (await command("workflows", "delete", "w-1", "--yes")).check(6, "is PENDING and cannot be deleted")
    done = (await command("workflows", "delete", "w-2", "nobody", "--yes")).check(3, "no workflow with the id 'nobody'")
    assert done.lines == ["deleted  w-2"]
    assert [one.workflow_id for one in await DBOS.list_workflows()] == ["w-1"]


async def test_resuming_what_has_failed_names_the_fork(dbos: DBOS, command: Command) -> None:
    await ended("f", fail)
    assert "workflows fork" in (await command("workflows", "resume", "f")).check(0).err
    done = (await command("workflows", "fork", "f", "1", "--id", "f-2", "--wait")).check(5, "no such item")
    assert done.err.startswith("started f-2\n")
    (await command("workflows", "fork", "f", "99")).check(2, "start_step")
    (await command("workflows", "fork", "nobody", "1")).check(3)


async def test_a_dry_run_names_them_and_changes_nothing(dbos: DBOS, command: Command) -> None:
    for number in range(3):
        await started(f"w-{number}", wait)
    await ended("g", greet)
    done = (await command("workflows", "cancel", "--name", "cli-wait", "--dry-run")).check(0)
    assert done.lines == ["w-0", "w-1", "w-2"]
    assert "It would cancel 3 workflows" in done.err
    done = (await command("workflows", "delete", "--since", "1h", "--dry-run", "--json")).check(0)
    assert done.json == {"dry_run": True, "workflow_ids": ["g"]}
    assert [await status(f"w-{number}") for number in range(3)] == ["PENDING"] * 3
    assert await status("g") == "SUCCESS"


async def test_a_filter_needs_a_yes(dbos: DBOS, command: Command) -> None:
    for number in range(30):
        await started(f"w-{number:02}", wait)
    (await command("workflows", "cancel", "--prefix", "w-")).check(2, "without a terminal, say --yes")
    assert await status("w-00") == "PENDING"
    done = (await command("workflows", "cancel", "--prefix", "w-", "--yes")).check(0)
    assert done.lines == ["cancelled 30 workflows of 30"]
    assert {one.status for one in await DBOS.list_workflows()} == {"CANCELLED"}
    assert "No workflow to cancel" in (await command("workflows", "cancel", "--prefix", "w-", "--yes")).check(0).err
    done = (await command("workflows", "resume", "--prefix", "w-", "--yes", "--json")).check(0)
    assert [(one["workflow_id"], one["resumed"]) for one in done.json] == [(f"w-{n:02}", True) for n in range(30)]


async def test_ids_come_from_standard_input(dbos: DBOS, command: Command) -> None:
    for number in range(3):
        await started(f"w-{number}", wait)
    listed = (await command("workflows", "list", "-q")).check(0)
    done = (await command("workflows", "cancel", "-", stdin=listed.out)).check(0)
    assert len(done.lines) == 3
    (await command("workflows", "cancel", "-", stdin="")).check(2, "Standard input has no ids")


async def test_cancel_and_delete_with_children(dbos: DBOS, command: Command) -> None:
    await started("w", have_children, "w-1", "w-2")
    await eventually(lambda: waits("w"))
    await DBOS.cancel_workflow("w-1")
    dry = (await command("workflows", "cancel", "w", "--children", "--dry-run")).check(0)
    assert sorted(dry.lines) == ["w", "w-2"]
    assert "It would cancel 2 workflows" in dry.err
    done = (await command("workflows", "cancel", "w", "nobody", "--children")).check(3, "id 'nobody'")
    assert done.lines == ["cancelled  w", "cancelled  w-2"]
    again = (await command("workflows", "cancel", "w", "--children", "--json")).check(0)
    assert again.json == [{"workflow_id": "w", "cancelled": False, "reason": "it had ended before"}]
    await DBOS.resume_workflow("w-2")
    (await command("workflows", "delete", "w", "--children", "--yes")).check(
        6, "'w' stays: it has not ended, or one that it"
    )
    assert (await command("workflows", "delete", "w", "--children", "--dry-run", "--json")).check(0).json == {
        "dry_run": True, "workflow_ids": [],
    }  # fmt: skip
    await DBOS.cancel_workflow("w-2")
    (await command("workflows", "delete", "w", "--children")).check(2, "It would delete 3 workflows")
    done = (await command("workflows", "delete", "--name", "cli-family", "--children", "--yes")).check(0)
    assert sorted(done.lines) == ["deleted  w", "deleted  w-1", "deleted  w-2"]
    assert await DBOS.list_workflows() == []


@pytest.mark.parametrize("verb", ["cancel", "resume", "delete"])
async def test_nobody_means_all_or_both(database_url: str, command: Command, verb: str) -> None:
    (await command("workflows", verb, "--yes")).check(2, f"Name those to {verb}")
    (await command("workflows", verb, "w", "--name", "x", "--yes")).check(2, "and not both")
    (await command("workflows", verb, "--newest", "--yes")).check(2, f"Name those to {verb}")
    (await command("workflows", verb, "nobody", "--yes")).check(3)


async def test_hostile_ids(dbos: DBOS, command: Command) -> None:
    await started(HOSTILE, wait)
    await eventually(lambda: waits(HOSTILE))
    for done in (
        await command("workflows", "cancel", HOSTILE),
        await command("workflows", "resume", HOSTILE),
        await command("workflows", "delete", HOSTILE, "--yes"),
        await command("workflows", "delete", "no" + HOSTILE, "--yes"),
    ):
        assert all(line.isprintable() for line in (done.out + done.err).splitlines())
        assert "[bold red]" in done.out + done.err


async def test_a_filter_means_only_those_on_which_it_can_be_done(dbos: DBOS, command: Command) -> None:
    await ended("done", greet, "Ada")
    await started("w", wait)
    for verb, filters in (("cancel", ["--status", "success"]), ("resume", ["--status", "pending"])):
        found = (await command("workflows", verb, *filters, "--dry-run", "--json")).check(0)
        assert "done" not in found.out
        assert '"w"' not in found.out
    assert '"w"' in (await command("workflows", "cancel", "--name", "cli-wait", "--dry-run", "--json")).check(0).out
