"""``workflows list``, ``executors`` and ``metrics``: what there is."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from dbos_async import DBOS, MessageCount
from dbos_async._cli.state import prometheus
from tests.cli.running import Command, cells, process
from tests.cli.workflows import HOSTILE, ended, fail, greet, started, wait, waits
from tests.support.eventually import eventually

pytestmark = pytest.mark.newest_only  # the lists themselves are tested on both versions elsewhere


async def some(dbos: DBOS) -> None:
    await ended("g-1", greet, "Ada")
    await ended("g-2", greet, "Bob")
    await ended("f-1", fail)
    await started("w-1", wait)
    await eventually(lambda: waits("w-1"))


async def test_it_lists_workflows(dbos: DBOS, command: Command) -> None:
    await some(dbos)
    done = (await command("workflows", "list")).check(0)
    assert [line.split()[0] for line in done.lines[2:]] == ["g-1", "g-2", "f-1", "w-1"]
    assert done.lines[0].split()[:5] == ["WORKFLOW", "NAME", "STATUS", "AGE", "TOOK"]
    assert [line.split()[3] for line in done.lines[2:]] == ["SUCCESS", "SUCCESS", "ERROR", "PENDING"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "success"], ["g-1", "g-2"]),
        (["--status", "ERROR", "--status", "pending"], ["f-1", "w-1"]),
        (["--status", "failed"], ["f-1"]),
        (["--status", "ended", "--newest"], ["f-1", "g-2", "g-1"]),
        (["--status", "parked"], []),
        (["--name", "cli-wait"], ["w-1"]),
        (["--name", "cli-wait", "-n", "cli-fail"], ["f-1", "w-1"]),
        (["--prefix", "g-"], ["g-1", "g-2"]),
        (["--since", "1h"], ["g-1", "g-2", "f-1", "w-1"]),
        (["--until", "1h"], []),
        (["--since", "2999-01-01"], []),
        (["--parent", "nobody"], []),
        (["--version", "7"], []),
        (["--unclaimable"], []),
        (["--limit", "2"], ["g-1", "g-2"]),
        (["--newest", "-l", "1"], ["w-1"]),
    ],
)
async def test_filters(dbos: DBOS, command: Command, options: list[str], ids: list[str]) -> None:
    await some(dbos)
    done = (await command("workflows", "list", "--quiet", *options)).check(0)
    assert done.lines == ids
    done = (await command("workflows", "list", "--json", *options)).check(0)
    assert [one["workflow_id"] for one in done.json] == ids


async def test_json_has_payloads_when_asked(dbos: DBOS, command: Command) -> None:
    await ended("g-1", greet, "Ada")
    (one,) = (await command("workflows", "list", "--json")).check(0).json
    assert "output" not in one
    (one,) = (await command("workflows", "list", "--json", "--payloads")).check(0).json
    assert (one["output"], one["status"], one["name"]) == ("hello Ada", "SUCCESS", "cli-greet")


async def test_it_says_that_there_is_more_and_that_there_is_nothing(dbos: DBOS, command: Command) -> None:
    assert (await command("workflows", "list")).check(0).err == "There are no workflows.\n"
    await some(dbos)
    assert "--limit 20 shows more" in (await command("workflows", "list", "--limit", "2")).check(0).err
    assert (await command("workflows", "list", "--name", "x")).check(0).err == "No workflow fits.\n"


async def test_more_than_a_page_is_listed_once_each(database_url: str, dbos: DBOS, command: Command) -> None:
    for number in range(30):
        await ended(f"g-{number:02}", greet)
    from dbos_async._cli import filters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "PAGE", 7)
        done = (await command("workflows", "list", "-q")).check(0)
        assert done.lines == [f"g-{number:02}" for number in range(30)]
        done = (await command("workflows", "list", "-q", "--newest", "--limit", "10")).check(0)
        assert done.lines == [f"g-{number:02}" for number in range(29, 19, -1)]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
async def test_a_table_fits_the_terminal_and_shows_texts_as_they_are(
    dbos: DBOS, command: Command, columns: int
) -> None:
    await ended(HOSTILE, greet)
    await ended("[bold]not markup[/bold]", greet)
    await ended("i" * 512, greet)
    await ended("日本語" * 100, greet)
    done = (await command("workflows", "list", columns=columns)).check(0)
    assert cells(done.out) <= columns
    assert done.out.replace("\n", "").isprintable()
    text = re.sub(r"\s", "", done.out)
    assert r"\x1b" in text
    assert "[bold]" in text


async def test_what_no_executor_can_run_stands_out(database_url: str, command: Command) -> None:
    (await command("workflows", "start", "unknown", "--id", "lost")).check(0)
    done = (await command("workflows", "list", "--unclaimable")).check(0)
    assert "PENDING unclaimable" in done.lines[2]
    done = (await command("workflows", "show", "lost")).check(0)
    assert "no live executor can run it" in done.out


async def test_what_an_executor_that_has_gone_owns_is_not_unclaimable_and_that_is_said(
    database_url: str, command: Command, connection: Any
) -> None:
    (await command("workflows", "start", "unknown", "--id", "owned")).check(0)
    await connection.execute("update dbos_async.workflows set owner = 'gone:1234' where id = 'owned'")
    done = (await command("workflows", "list", "--unclaimable")).check(0)
    assert done.out == ""
    assert done.err == (
        "Not in this list: 1 workflow of executors that have gone (gone). A live executor frees it first.\n"
        "No workflow fits.\n"
    )
    assert (await command("workflows", "list", "--unclaimable", "--json")).check(0).json == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--status", "nonsense"], "--status must be one of"),
        (["--since", "yesterday"], "--since must be a time ago"),
        (["--limit", "0"], "--limit"),
        (["--nonsense"], "--nonsense"),
        (["--prefix", "x" * 600], "id_prefix must have at most 512 characters"),
    ],
)
async def test_wrong_options_are_named(database_url: str, command: Command, options: list[str], sentence: str) -> None:
    done = (await command("workflows", "list", *options)).check(2, sentence)
    assert done.err.count("\n") == 1


async def test_it_is_watched_as_json_lines(dbos: DBOS, database_url: str) -> None:
    await ended("g-1", greet)
    with process(database_url, "workflows", "list", "--watch", "--json") as watching:
        assert watching.stdout is not None
        first = json.loads(await asyncio.to_thread(watching.stdout.readline))
        assert (first["workflow_id"], first["status"]) == ("g-1", "SUCCESS")
        handle = await started("w-1", wait)
        second = json.loads(await asyncio.to_thread(watching.stdout.readline))
        assert second["workflow_id"] == "w-1"
        await DBOS.send("w-1", 1, "go")
        await handle.get_result()
        last = second
        while last["status"] != "SUCCESS":  # when it was claimed is a change, too
            last = json.loads(await asyncio.to_thread(watching.stdout.readline))
        assert last["workflow_id"] == "w-1"
        watching.terminate()


async def test_executors_are_listed(dbos: DBOS, command: Command) -> None:
    await started("w-1", wait)
    await eventually(lambda: waits("w-1"))
    done = (await command("executors")).check(0)
    assert re.search(r"^test +● live +1 ", done.lines[2])
    (one,) = (await command("executors", "--json")).check(0).json
    assert (one["executor_id"], one["is_live"], one["workflows"]) == ("test", True, 1)


async def test_without_executors_it_says_so(database_url: str, command: Command) -> None:
    assert "There are no executors" in (await command("executors")).check(0).err
    assert (await command("executors", "--json")).check(0).json == []


async def test_metrics_are_in_the_text_form_of_prometheus(dbos: DBOS, command: Command) -> None:
    await some(dbos)
    await DBOS.send("w-1", 1, HOSTILE)
    done = (await command("metrics")).check(0)
    assert 'dbos_async_workflows{name="cli-greet",status="SUCCESS"} 2' in done.lines
    assert 'dbos_async_workflows{name="cli-wait",status="PENDING"} 1' in done.lines
    assert 'dbos_async_executors{state="live"} 1' in done.lines
    sample = re.compile(r'\w+\{(\w+="([^"\\\n]|\\["\\n])*",?)*\} [0-9.e+-]+')
    for line in done.lines:
        assert line.startswith(("# HELP dbos_async_", "# TYPE dbos_async_")) or sample.fullmatch(line), line
        assert line.isprintable()
    found = (await command("metrics", "--json")).check(0).json
    assert set(found) == {"workflows", "messages", "executors"}
    assert found["messages"][0]["waiting"] == 1


def test_topics_after_two_hundred_are_one_label() -> None:
    now = datetime.now(UTC)
    topics = [MessageCount(topic=f"t{number}", waiting=number, oldest_at=now, rejected=0) for number in range(1, 301)]
    lines = [line for line in prometheus([], topics, [], now) if line.startswith("dbos_async_messages_waiting{")]
    assert len(lines) == 201
    assert lines[-1] == f'dbos_async_messages_waiting{{topic="_other"}} {sum(range(1, 101))}'
