"""``send``, ``ask``, ``events``, ``stream``, ``messages`` and ``workflows export``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dbos_async import DBOS
from tests.cli.running import Command, cells, process
from tests.cli.workflows import HOSTILE, count, ended, greet, hostile, order, read_number, shop, started, wait, waits
from tests.support.eventually import eventually

pytestmark = pytest.mark.newest_only  # the verbs are tested on both versions elsewhere


@pytest.mark.parametrize(
    ("arguments", "stdin", "value"),
    [
        (["paid"], None, "paid"),
        (["10"], None, 10),
        (["null"], None, None),
        (['"10"'], None, "10"),
        (["status=paid", "amount:=10"], None, {"status": "paid", "amount": 10}),
        (["-"], "[1, 2]", [1, 2]),
        (["-", "a=b"], '{"c": 1}', {"c": 1, "a": "b"}),
        ([HOSTILE], None, HOSTILE),
    ],
)
async def test_a_message_is_sent(
    dbos: DBOS, command: Command, arguments: list[str], stdin: str | None, value: Any
) -> None:
    handle = await started("w", wait)
    done = (await command("send", "w", *arguments, "--topic", "go", stdin=stdin)).check(0)
    assert done.out == "sent to w\n"
    assert await handle.get_result() == value


async def test_keys_headers_and_delays(dbos: DBOS, command: Command) -> None:
    await started("w", wait)
    for _ in range(2):
        (await command("send", "w", "1", "-t", "x", "--key", "k", "-H", "a=b")).check(0)
    (message,) = await DBOS.list_messages("w", topic="x")
    assert (message.idempotency_key, message.headers) == ("k", {"a": "b"})
    (await command("send", "w", "1", "-t", "y", "--delay", "1h")).check(0)
    assert len(await DBOS.list_messages("w", status="delayed")) == 1
    (await command("send", "w", "1", "-H", "nonsense")).check(2, "--header must be name=text")
    (await command("send", "w")).check(2, "The message is missing")
    (await command("send", "w", "1", "2")).check(2, "must be one value and 2 are given")
    (await command("send", "nobody", "1")).check(3)
    await ended("g", greet)
    done = (await command("send", "g", "1", "--json")).check(0)
    assert done.json == {"workflow_id": "g", "topic": None, "destination_has_ended": True}
    assert "has ended" in done.err


async def test_a_question_is_answered_or_not(dbos: DBOS, command: Command) -> None:
    handle = await started("s", shop)
    assert (await command("ask", "s", "a widget", "--topic", "quote")).check(0).out == "800\n"
    assert (await command("ask", "s", "ab", "-t", "quote", "--json")).check(0).json == 200
    (await command("ask", "s", "x", "-t", "other", "--timeout", "0.2s")).check(4)
    (await command("ask", "s", "end", "-t", "quote")).check(5, "closed")
    await handle.get_result()
    (await command("ask", "s", "late", "-t", "quote")).check(5)
    (await command("ask", "s", "late")).check(2, "--topic")


async def test_events_are_printed_and_watched(dbos: DBOS, database_url: str, command: Command) -> None:
    handle = await started("o", order, "x")
    await eventually(lambda: waits("o"))
    assert (await command("events", "o")).check(0).out == 'state  "waiting"\n'
    assert (await command("events", "o", "--json")).check(0).json == {"state": "waiting"}
    assert (await command("events", "o", "state")).check(0).out == "waiting\n"
    assert (await command("events", "o", "state", "--json")).check(0).json == "waiting"
    (await command("events", "o", "nothing")).check(3, "has no event 'nothing'")
    (await command("events", "o", "nothing", "--timeout", "0.1s")).check(4, "has not come")
    (await command("events", "nobody")).check(3)
    with (
        process(database_url, "events", "o", "state", "--watch", "--json") as one,
        process(database_url, "events", "o", "--watch", "--json") as every,
    ):
        assert one.stdout is not None
        assert every.stdout is not None
        assert json.loads(await asyncio.to_thread(one.stdout.readline))["value"] == "waiting"
        assert json.loads(await asyncio.to_thread(every.stdout.readline)) == {"key": "state", "value": "waiting"}
        await DBOS.send("o", "now", "paid")
        await handle.get_result()
        assert (await asyncio.to_thread(one.wait), await asyncio.to_thread(every.wait)) == (0, 0)


async def test_a_stream_is_printed_and_followed(dbos: DBOS, database_url: str, command: Command) -> None:
    handle = await started("o", order, "x")
    await eventually(lambda: waits("o"))
    assert (await command("stream", "o", "progress", "--no-follow")).check(0).lines == ["0", "1", "2", "3"]
    assert (await command("stream", "o", "progress", "--no-follow", "--from", "3")).check(0).lines == ["3"]
    (await command("stream", "o", "progress", "--timeout", "0.2s")).check(4)
    (await command("stream", "nobody", "progress")).check(3)
    with process(database_url, "stream", "o", "progress", "--json") as following:
        assert following.stdout is not None
        lines = [json.loads(await asyncio.to_thread(following.stdout.readline)) for _ in range(4)]
        assert lines == [{"offset": number, "value": number} for number in range(4)]
        await DBOS.send("o", "now", "paid")
        await handle.get_result()
        assert await asyncio.to_thread(following.wait) == 0


async def test_messages_are_listed_shown_and_delivered_again(dbos: DBOS, command: Command) -> None:
    assert "no rejected messages" in (await command("messages", "list")).check(0).err
    handle = await started("n", read_number)
    await DBOS.send("n", "seven", "number", headers={"h": HOSTILE})
    await eventually(lambda: DBOS.list_messages("n", status="rejected"))
    (one,) = (await command("messages", "list", "--json", "--payloads")).check(0).json
    assert (one["payload"], one["destination_id"]) == ("seven", "n")
    message_id = one["id"]
    for options in ([], ["n"], ["n", "--topic", "number"], ["--status", "rejected"]):
        done = (await command("messages", "list", *options, columns=80)).check(0)
        assert done.lines[2].split()[1:4] == ["n", "number", "rejected"]
        assert cells(done.out) <= 80
    done = (await command("messages", "show", message_id)).check(0)
    assert done.lines[0] == f"{message_id}  rejected"
    assert done.lines[-1] == '"seven"'
    assert all(line.isprintable() for line in done.lines)
    assert (await command("messages", "show", message_id, "--json")).check(0).json["headers"] == {"h": HOSTILE}
    assert (await command("messages", "redeliver", message_id)).check(0).out == f"delivered again  {message_id}\n"
    await eventually(lambda: _rejected(2))
    await DBOS.cancel_workflow("n")
    del handle
    (await command("messages", "redeliver", message_id)).check(6, "which has ended")
    (await command("messages", "redeliver", str(uuid4()))).check(3)
    (await command("messages", "show", str(uuid4()))).check(3)
    (await command("messages", "show", "nonsense")).check(2, "is a UUID")
    (await command("messages", "list", "nobody")).check(3)
    (await command("messages", "list", "--status", "nonsense")).check(2)


async def _rejected(at_least: int) -> bool:
    return len(await DBOS.list_messages("n", status="rejected")) >= at_least


async def test_a_delayed_message_is_shown(dbos: DBOS, command: Command) -> None:
    await started("w", wait)
    await DBOS.send("w", 1, "x", delay_seconds=3600)
    (message,) = await DBOS.list_messages("w", status="delayed")
    done = (await command("messages", "show", str(message.id))).check(0)
    assert done.lines[0].endswith("  delayed")
    assert any(line.strip().startswith("due") for line in done.lines)


async def test_an_export_has_everything(dbos: DBOS, command: Command, tmp_path: Path) -> None:
    handle = await started("o", order, "x")
    await eventually(lambda: waits("o"))
    await DBOS.send("o", {"a": 1}, "other")
    await DBOS.send("o", 2, "third", delay_seconds=3600)
    await DBOS.send("o", "now", "paid")
    await handle.get_result()
    found = (await command("workflows", "export", "o")).check(0).json
    assert (found["workflow"]["id"], found["workflow"]["output"]) == ("o", "x: now")
    assert [step["number"] for step in found["steps"]] == list(range(1, 14))
    assert sorted(message["topic"] for message in found["messages"]) == ["other", "paid"]
    assert [message["topic"] for message in found["delayed_messages"]] == ["third"]
    assert [event["value"] for event in found["events"]] == ["reserving", "waiting"]
    assert [entry["value"] for entry in found["stream_entries"]] == [0, 1, 2, 3, None]
    file = tmp_path / "o.json"
    (await command("workflows", "export", "o", "--output", str(file))).check(0)
    written = json.loads(file.read_text())
    assert {**written, "exported_at": None} == {**found, "exported_at": None}
    (await command("workflows", "export", "nobody", "-o", str(tmp_path / "no.json"))).check(3)
    assert [path.name for path in tmp_path.iterdir()] == ["o.json"]
    (await command("workflows", "export", "o", "-o", str(tmp_path / "no" / "o.json"))).check(1, "cannot be written")


async def test_an_export_of_next_to_nothing_and_of_hostile_texts(dbos: DBOS, command: Command) -> None:
    await ended("g", greet)
    found = (await command("workflows", "export", "g")).check(0).json
    kinds = ("steps", "messages", "delayed_messages", "events", "stream_entries")
    assert [found[kind] for kind in kinds] == [[]] * 5
    await started(HOSTILE, hostile, HOSTILE)
    await eventually(lambda: waits(HOSTILE))
    done = (await command("workflows", "export", HOSTILE)).check(0)
    assert all(line.isprintable() for line in done.lines)
    assert done.json["events"][0]["value"] == HOSTILE
    assert (await command("events", HOSTILE, "--json")).check(0).json == {HOSTILE: HOSTILE}
    for printed in (await command("events", HOSTILE), await command("stream", HOSTILE, HOSTILE, "--no-follow")):
        assert len(printed.check(0).lines) == 1
        assert printed.out.rstrip("\n").isprintable()


async def test_an_event_that_is_set_often_is_watched_to_its_end(dbos: DBOS, command: Command) -> None:
    await ended("c", count, 5)
    done = (await command("events", "c", "number", "--watch", "--json")).check(0)
    assert json.loads(done.lines[-1])["value"] == 4
