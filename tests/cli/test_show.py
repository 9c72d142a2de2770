"""``workflows show``: one workflow as a conversation."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from dbos_async import DBOS, SetWorkflowTimeout
from tests.cli.running import Command, cells, process
from tests.cli.workflows import (
    HOSTILE,
    count,
    ended,
    fail,
    greet,
    hostile,
    order,
    read_number,
    retry,
    started,
    wait,
    waits,
)
from tests.support.eventually import eventually

pytestmark = pytest.mark.newest_only  # what is described is tested on both versions elsewhere


async def an_order() -> Any:
    handle = await started("order-1", order, "a widget")
    await eventually(lambda: waits("order-1"))
    return handle


async def test_the_present_wait_stands_first(dbos: DBOS, command: Command) -> None:
    await an_order()
    done = (await command("workflows", "show", "order-1", columns=120)).check(0)
    assert done.lines[0] == "cli-order  order-1"
    assert "● PENDING · created 0 s ago" in done.lines[1] or "PENDING" in done.lines[1]
    assert "executor test" in done.lines[2]
    assert done.lines[3].split() == ["input", '["a', 'widget"]']
    assert re.match(r"waits for a message about 'paid' · (4 min 5\d s|5 min) of 5 min left", done.lines[5])


async def test_the_steps_are_told_in_their_order(dbos: DBOS, command: Command) -> None:
    handle = await an_order()
    done = (await command("workflows", "show", "order-1", columns=140)).check(0)
    child = (await DBOS.list_workflows(parent_id="order-1"))[0].workflow_id
    marks = [re.sub(r"^ *(\S+) +\S+ \w+ +[─━]+ +(…|[\d.]+ \w+) +", r"\1 ", line).rstrip() for line in done.lines]
    told = marks[marks.index("steps  12") + 1 :]
    assert told[:4] == ["1 ◆ state", "2 ■ set_aside  = 41", "3 ◆ state", "4–7 ≡ progress × 4"]  # noqa: RUF001
    assert told[4] == f"8 ↳ start cli-greet as {child}"
    assert told[5] == f'9 ↲ result of {child}  = "hello child"'
    assert told[6] == f"10 → later to {child}"
    assert told[7] == "11 ✗ refuse"
    assert told[8].strip() == "ValueError: no stock"
    assert told[9] == "12 ← paid  waits"
    assert '◆ state (2 values), 0 s ago  "waiting"' in done.out.replace("1 s ago", "0 s ago")
    assert re.search(r"≡ progress  4 values, open", done.out)
    assert f"↳ ✓ SUCCESS  cli-greet  {child}" in done.out
    await DBOS.send("order-1", "in cash", "paid")
    await handle.get_result()
    done = (await command("workflows", "show", "order-1", columns=140)).check(0)
    assert '← paid from outside  "in cash"' in done.out
    assert 'returned "a widget: in cash"' in done.out
    assert "4 values, closed" in done.out


async def test_payloads_are_shown_in_full(dbos: DBOS, command: Command) -> None:
    await ended("g", greet, "x" * 5000)
    assert "x" * 5000 not in (await command("workflows", "show", "g")).check(0).out
    done = (await command("workflows", "show", "g", "--payloads", columns=80)).check(0)
    assert "x" * 5000 in re.sub(r"\s", "", done.out)
    await ended("f", fail)
    assert "ValueError: no such item" in (await command("workflows", "show", "f")).check(0).out
    done = (await command("workflows", "show", "f", "--payloads")).check(0)
    assert "raise ValueError(text)" in done.out


async def test_messages_that_wait_or_were_rejected_are_shown(dbos: DBOS, command: Command) -> None:
    await started("n", read_number)
    await DBOS.send("n", "seven", "number")
    await DBOS.send("n", "later", "other")
    await eventually(lambda: waits("n"))
    await eventually(lambda: DBOS.list_messages("n", status="rejected"))
    (rejected,) = await DBOS.list_messages("n", status="rejected")
    done = (await command("workflows", "show", "n", columns=160)).check(0)
    assert "messages  1 waits, 1 was rejected" in done.lines
    assert f"dbos-async messages redeliver {rejected.id}" in done.out
    assert re.search(r'← other from outside, \d s ago  "later"', done.out)
    assert re.search(r'✗ number from outside, \d s ago  "seven"', done.out)


async def test_a_long_workflow_shows_its_last_steps(dbos: DBOS, command: Command) -> None:
    await ended("c", count, 120)
    done = (await command("workflows", "show", "c")).check(0)
    assert "steps  the last 50 of 120; --steps 120 shows more" in done.lines
    assert sum("◆ number" in line for line in done.lines) == 51, "50 steps and the event"
    done = (await command("workflows", "show", "c", "--steps", "120")).check(0)
    assert "steps  120" in done.lines
    found = (await command("workflows", "show", "c", "--steps", "7", "--json")).check(0).json
    assert [step["step"] for step in found["steps"]] == [str(number) for number in range(114, 121)]
    assert found["step_count"] == 120


async def test_it_is_followed_step_by_step(dbos: DBOS, database_url: str) -> None:
    handle = await an_order()
    with process(database_url, "workflows", "show", "order-1", "--follow", "--json") as following:
        assert following.stdout is not None
        seen = [json.loads(await asyncio.to_thread(following.stdout.readline)) for _ in range(11)]
        assert [one["step"] for one in seen] == [str(number) for number in range(1, 12)]
        await DBOS.send("order-1", "now", "paid")
        await handle.get_result()
        rest = [json.loads(line) for line in await asyncio.to_thread(following.stdout.readlines)]
        assert [(one.get("step"), one.get("output")) for one in rest] == [
            ("12", "now"), ("13", None), (None, "a widget: now"),
        ]  # fmt: skip
        assert following.wait() == 0


async def test_following_what_has_ended_ends(dbos: DBOS, command: Command) -> None:
    await ended("c", count, 450)
    done = (await command("workflows", "show", "c", "--follow")).check(0)
    assert len(done.lines) == 201
    assert done.lines[-1] == "✓ SUCCESS"


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
async def test_hostile_texts_stay_texts(dbos: DBOS, command: Command, columns: int) -> None:
    await started(HOSTILE, hostile, HOSTILE)
    await eventually(lambda: waits(HOSTILE))
    await DBOS.send(HOSTILE, {HOSTILE: HOSTILE}, "x" + HOSTILE, headers={"h": HOSTILE})
    for options in ([], ["--payloads"]):
        done = (await command("workflows", "show", HOSTILE, *options, columns=columns)).check(0)
        assert cells(done.out) <= columns
        assert all(line.isprintable() for line in done.lines), done.out
        assert "[boldred]" in re.sub(r"\s", "", done.out)
    await DBOS.send(HOSTILE, 1, HOSTILE)
    found = (await command("workflows", "show", HOSTILE, "--json")).check(0)
    assert all(line.isprintable() for line in found.lines)
    assert found.json["status"]["workflow_id"] == HOSTILE


async def test_huge_values_and_errors_are_cut(dbos: DBOS, command: Command) -> None:
    huge = "\x1b" * (2**20)
    await started("w", wait)
    await DBOS.send("w", "x" * (8 * 2**20 - 10), "other")
    await ended("h", fail, huge)
    await ended("g", greet, "y" * (4 * 2**20))
    for workflow_id in ("w", "h", "g"):
        done = (await command("workflows", "show", workflow_id, columns=80)).check(0)
        assert len(done.out) < 20_000
        assert cells(done.out) <= 80
        assert all(line.isprintable() for line in done.lines)
    (await command("workflows", "list", "--payloads", "--json")).check(0)
    done = (await command("workflows", "show", "g", "--payloads")).check(0)
    assert "y" * (4 * 2**20) in re.sub(r"\s", "", done.out)


async def test_what_is_cancelled_tells_how_it_goes_on(dbos: DBOS, command: Command) -> None:
    with SetWorkflowTimeout(3600):
        await started("w 1", wait)
    assert re.search("is cancelled in (59|1 h)", (await command("workflows", "show", "w 1")).check(0).out)
    await DBOS.cancel_workflow("w 1")
    done = (await command("workflows", "show", "w 1")).check(0)
    assert "dbos-async workflows resume 'w 1'" in done.out


async def test_a_step_that_is_tried_again_tells_why(dbos: DBOS, command: Command) -> None:
    await started("r", retry)

    async def has_failed_once() -> bool:
        return any(one.last_error for one in (await DBOS.describe_workflow("r")).waits)

    await eventually(has_failed_once)

    async def is_told() -> bool:  # other processes see it when the executor has written its steps under way
        return "attempt 2" in (await command("workflows", "show", "r")).out

    await eventually(is_told)
    done = (await command("workflows", "show", "r", columns=120)).check(0)
    assert re.search(r"waits for step call_the_bank, attempt 2 · .* of 1 h left", done.out)
    assert r"  after ConnectionError: the bank does not answer\n\x1b[31m" in done.lines
    assert "failed, attempt 2 is next" in done.out


async def test_what_is_not_there_is_not_found(database_url: str, command: Command) -> None:
    for options in ([], ["--json"], ["--follow"]):
        (await command("workflows", "show", "nobody", *options)).check(3, "There is no workflow with the id 'nobody'")
