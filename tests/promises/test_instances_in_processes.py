"""Workflows on objects in several processes: another one goes on with its own object, and one without it leaves it (W2, W10)."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from dbos_async import DBOSClient, SetWorkflowID
from tests.cli.running import command_of, process
from tests.support.crashing import killed_and_taken_over
from tests.support.eventually import eventually
from tests.support.processes import running


async def wait_for_step(client: DBOSClient, workflow_id: str, count: int) -> None:
    async def has_steps() -> bool:
        return len(await client.list_workflow_steps(workflow_id)) == count

    await eventually(has_steps)


async def unclaimable(client: DBOSClient) -> list[str]:
    return sorted(one.workflow_id for one in await client.list_workflows(unclaimable=True))


async def test_w2_w10_a_killed_process_s_objects_are_found_by_class_and_name_or_left(
    database_url: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    names = {"b": "Shop.order@berlin", "h": "Shop.order@hamburg", "R": "Shop.order[Market]@ROME"}
    async with (
        DBOSClient(database_url) as client,
        running("shops", database_url, "one", ledger, "berlin", "hamburg", "ROME") as one,
    ):
        await one.says("ready")
        for workflow_id, name in names.items():
            with SetWorkflowID(workflow_id):
                await client.start_workflow(name, "a widget")
            await wait_for_step(client, workflow_id, 2)
        async with running("shops", database_url, "two", ledger, "berlin") as two:
            await two.says("ready")
            assert await unclaimable(client) == []
            assert "No live executor has" not in two.errors
            await one.end(signal.SIGKILL)
            await client.send("b", "paid", "paid")
            assert await (await client.retrieve_workflow("b")).get_result() == ["one", "paid", "two"]
            await eventually(lambda: two.errors.count("No live executor has") == 2)
            for kind, instance in (("Shop", "hamburg"), ("Market", "ROME")):
                sentence = (
                    f"ERROR No live executor has an object of {kind} that is registered as {instance!r}, for which the "
                    f"workflow 'Shop.order' waits: write DBOS.register_instance(…, name={instance!r}) before the launch.\n"
                )
                assert two.errors.count(sentence) == 1
            assert await unclaimable(client) == ["R", "h"]
            doctor = await command_of(database_url)("doctor")
            assert "1 of 'Shop.order@hamburg'" in " ".join(doctor.out.split())
            await client.send("h", "paid", "paid")  # it waits like any other
            async with running("shops", database_url, "three", ledger, "hamburg", "ROME") as three:
                assert await (await client.retrieve_workflow("h")).get_result() == ["one", "paid", "three"]
                await client.send("R", "paid", "paid")
                assert await (await client.retrieve_workflow("R")).get_result() == ["one", "paid", "three"]
                assert await unclaimable(client) == []
                assert "No live executor has" not in three.errors
            assert two.errors.count("No live executor has") == 2
    lines = [f"{name.partition('@')[2]} {what}" for name in names.values() for what in ("a widget", "sent")]
    assert sorted(ledger.read_text().splitlines()) == sorted(lines)  # no step ran twice


async def test_w2_w10_an_inherited_class_method_is_taken_over_for_its_class(database_url: str, tmp_path: Path) -> None:
    async with DBOSClient(database_url) as client:
        async with running("shops", database_url, "one", tmp_path / "ledger") as one:
            await one.says("ready")
            for name in ("Shop.audit", "Shop.audit[Market]", "Shop.audit[Fair]"):
                with SetWorkflowID(name):
                    await client.start_workflow(name)
            for workflow_id in ("Shop.audit", "Shop.audit[Market]"):
                await wait_for_step(client, workflow_id, 1)
            sentence = (
                "No live executor has a class Fair that inherits the workflow 'Shop.audit', which waits for it: "
                "import its module before the launch."
            )
            await eventually(lambda: sentence in one.errors)
            assert await unclaimable(client) == ["Shop.audit[Fair]"]
            await one.end(signal.SIGKILL)
        async with running("shops", database_url, "two", tmp_path / "ledger"):
            for workflow_id, kind in (("Shop.audit", "Shop"), ("Shop.audit[Market]", "Market")):
                await client.send(workflow_id, None, "audited")
                assert await (await client.retrieve_workflow(workflow_id)).get_result() == kind


async def test_d5_the_command_line_knows_methods_by_their_names(database_url: str, tmp_path: Path) -> None:
    command = command_of(database_url)
    async with running("shops", database_url, "one", tmp_path / "ledger", "berlin") as one:
        await one.says("ready")
        for name, *given in (("Shop.order@berlin", "a widget"), ("Shop.audit[Market]",)):
            (await command("workflows", "start", name, *given, "--id", name)).check(0)
        await command("send", "Shop.order@berlin", "cash", "--topic", "paid")
        assert "Shop.order@berlin" in (await command("workflows", "show", "Shop.order@berlin")).check(0).lines[0]
        found = (await command("workflows", "list", "--name", "Shop.audit[Market]", "--json")).check(0).json
        assert [one["workflow_id"] for one in found] == ["Shop.audit[Market]"]
    module = "tests.support.programs.shops"
    for workflow_id, code, says in (
        ("Shop.audit[Market]", 0, "asks for recv"),
        ("Shop.order@berlin", 2, "registers its object"),
    ):
        replaying = process(database_url, "workflows", "replay", workflow_id, module)
        out, err = await asyncio.to_thread(replaying.communicate)
        assert (replaying.returncode, says in out + err) == (code, True), out + err


@pytest.mark.parametrize("at", range(1, 15))
@pytest.mark.parametrize("mode", ["before", "during", "after"])
async def test_w2_w4_a_workflow_of_an_object_killed_at_any_step_ends_as_if_it_had_not_been(
    database_url: str, connection: Any, tmp_path: Path, mode: str, at: int
) -> None:
    story = await killed_and_taken_over(database_url, "serve", tmp_path / "ran", mode, at)
    assert story["result"] == {
        "sold": "quick ROME-A", "first": 1, "second": 2, "other": "BERLIN-B", "rung": "ROME-C", "counted": "3 QUICKTILL",
    }  # fmt: skip
    names = [row["name"] for row in await connection.fetch("select name from dbos_async.workflows order by name")]
    assert names == [
        "QuickTill.sell@rome", "QuickTill.serve@rome", "Till.count[QuickTill]", "Till.sell@berlin", "Till.sell[QuickTill]@rome",
    ]  # fmt: skip
