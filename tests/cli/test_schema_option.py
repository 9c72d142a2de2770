"""``--schema``: every command works in the schema of one of several applications in a database."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from dbos_async import DBOS, SetWorkflowID
from dbos_async._operations.replay import replay_workflow
from dbos_async._workflows.registry import registered
from dbos_async.cli import app
from tests.cli.running import Command, command_of, process, run
from tests.cli.workflows import greet
from tests.support.databases import execute
from tests.support.examined import new_role

pytestmark = pytest.mark.newest_only  # tests/promises/test_schemas.py is about the schema on both versions

SCHEMA = "shop"
IN_SCHEMA = ("--schema", SCHEMA)


@pytest.fixture
async def shop_url(database_url: str) -> str:
    """A database with one workflow in another schema, and none in the usual one."""
    async with DBOS(database_url, schema=SCHEMA):
        with SetWorkflowID("g-1"):
            assert await (await DBOS.start_workflow(greet, "Ada")).get_result()
    return database_url


@pytest.fixture
def shop(shop_url: str) -> Command:
    return command_of(shop_url)


def options(command: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """The options of every command."""
    if not hasattr(command, "commands"):
        return {path: {option for each in command.params for option in each.opts}}
    found: dict[tuple[str, ...], set[str]] = {}
    for name, each in command.commands.items():
        found |= options(each, (*path, name))
    return found


def test_every_command_of_a_database_has_the_option() -> None:
    found = options(get_command(app))
    assert len(found) > 20
    assert [path for path, known in found.items() if "--schema" not in known] == [("version",)]


async def test_commands_work_in_the_schema_that_they_are_told(shop: Command, shop_url: str) -> None:
    listed = await shop("workflows", "list", *IN_SCHEMA, "--json")
    assert [one["workflow_id"] for one in listed.json] == ["g-1"]
    assert (await shop("workflows", "list", "--json")).json == []
    for arguments in (
        ("workflows", "show", "g-1"),
        ("workflows", "export", "g-1"),
        ("messages", "list"),
        ("executors",),
        ("metrics",),
    ):
        (await shop(*arguments, *IN_SCHEMA)).check(0)
    (await shop("workflows", "show", "g-1")).check(3)
    replay = await replay_workflow(shop_url, "g-1", registered, schema=SCHEMA)
    assert replay.fits, replay.says
    (await shop("purge", "--older-than", "1s", "--yes")).check(0)
    assert await execute(shop_url, "select count(*) from shop.workflows") == 1
    (await shop("workflows", "delete", "g-1", "--yes", *IN_SCHEMA)).check(0)
    assert await execute(shop_url, "select count(*) from shop.workflows") == 0
    assert "DBOS_SCHEMA" not in os.environ, "a command in this process has left nothing"


async def test_the_doctor_examines_the_schema_that_it_is_told(shop: Command, shop_url: str) -> None:
    found = {one["check"]: one for one in (await shop("doctor", *IN_SCHEMA, "--json")).json}
    for check in ("schema", "rights", "objects", "sequences", "unclaimable"):
        assert found[check]["level"] == "ok", found[check]
    await execute(shop_url, "drop index shop.workflows_created")
    (missing,) = [one for one in (await shop("doctor", *IN_SCHEMA, "--json")).json if one["check"] == "objects"]
    await execute(shop_url, missing["advice"])
    async with new_role(shop_url) as (role, url):
        told = [one for one in (await command_of(url)("doctor", *IN_SCHEMA, "--json")).json if one["check"] == "rights"]
        assert f"grant usage on schema shop to {role};" in [one["advice"] for one in told]
    absent = (await shop("doctor", "--schema", "nowhere", "--json")).json
    (said,) = [one for one in absent if one["check"] == "schema"]
    assert said["says"].endswith("has no schema nowhere.")
    assert "'dbos-async migrate --schema nowhere'" in said["advice"]


@pytest.mark.parametrize(
    "name", ["Shop", "", "a b", 'x"; drop schema dbos_async; --', "pg_shop", "9a", "x" * 41, "schöp"]
)
def test_d5_a_name_that_no_schema_may_have_is_one_sentence(name: str) -> None:
    done = run("postgresql://me@127.0.0.1:1/x", "workflows", "list", "--schema", name)
    done.check(done.code, "--schema must")
    assert done.code != 0
    assert done.err.count("\n") == 1


async def test_what_dev_starts_works_in_the_schema_that_dev_was_told(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text("import os; print('in', os.environ['DBOS_SCHEMA'])")
    with process(database_url, "dev", "says.py", "--no-page", *IN_SCHEMA, cwd=tmp_path) as running:
        out, err = await asyncio.to_thread(running.communicate, timeout=90)
    assert (running.returncode, out.splitlines()[1:]) == (0, ["in shop"]), err
    assert await execute(database_url, "select count(*) from shop.migrations") > 0
