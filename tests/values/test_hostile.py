"""Rows that an attacker wrote straight into the tables: nothing in them runs or is imported, and errors name the row (D1, D5)."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from dbos_async import (
    DBOS,
    DBOSClient,
    Event,
    InvalidMessageError,
    InvalidStreamValueError,
    InvalidValueError,
    RecordedError,
    SetWorkflowID,
    Stream,
    Topic,
)
from tests.support.eventually import eventually

TRAP = "tests.support.programs.trap"
"""A module that, imported, leaves a mark; nothing may import it."""

DEEP = "[" * 1500 + "]" * 1500
HOSTILE = [
    "null", "7", "1e400", "-1e999",
    "9" * 5000, '""', '"\\ud800"', '{"\\udc00": 1}', "[]", "{}", DEEP, '{"a":' * 900 + "1" + "}" * 900,
    '{"type": "os:system", "args": ["touch /tmp/x"]}', '{"type": "builtins:eval", "args": ["1/0"]}',
    f'{{"type": "{TRAP}:TrapError"}}',
    '{"type": "builtins:SystemExit", "args": [1]}', '{"type": "subprocess:Popen", "args": [["false"]]}',
    '{"args": 7, "kwargs": []}',
    '{"args": [1, 2, 3, 4, 5], "kwargs": {"x": 1, "self": 2, "__class__": 3}}', '{"offset": -1, "count": 1e300, "end": "closed"}',
    '{"offset": 0, "count": 99999999999, "end": null}', '{"offset": "os:system", "count": true, "end": {}}', '["\\u0000"]',
    '{"py/object": "os.system", "__reduce__": "os:system", "$type": "System.Diagnostics.Process"}',
    '"!!python/object/apply:os.system"',
]  # fmt: skip


class Order(BaseModel):
    number: int


@DBOS.step(name="a step")
async def a_step() -> Order:
    return Order(number=1)


@DBOS.workflow(name="a child")
async def a_child(order: Order) -> Order:
    return order


@DBOS.workflow(name="everything")
async def everything(order: Order) -> int:
    """A step of every kind that records something."""
    me = str(DBOS.workflow_id)
    await DBOS.set_event("e", order)
    await DBOS.write_stream("s", order)
    await a_step()
    await DBOS.get_event(me, Event("e", Order))
    async for _ in DBOS.read_stream(me, Stream("s", Order)):
        break
    child = await DBOS.start_workflow(a_child, order)
    await child.get_result()
    await DBOS.send(me, order)
    await DBOS.recv(Topic("nothing", Order), 0)
    envelope = await DBOS.recv_envelope()
    assert envelope is not None
    await DBOS.list_workflow_steps(me)
    await DBOS.sleep(0)
    await DBOS.recv("end", None)
    return order.number


STEPS = 13


@pytest.fixture(autouse=True)
def _nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    mark = tmp_path / "mark"
    monkeypatch.setenv("DBOS_TEST_TRAP", str(mark))
    yield
    assert not mark.exists()
    assert TRAP not in sys.modules


@pytest.fixture
async def _others_go_on(database_url: str) -> AsyncIterator[None]:
    """A workflow beside the hostile row ends as ever, and the process is there to see it."""
    yield
    async with DBOS(database_url):
        assert await a_child(Order(number=7)) == Order(number=7)


async def _status(workflow_id: str) -> str:
    return (await DBOS.list_workflows(id_prefix=workflow_id))[0].status


def test_the_trap_is_one() -> None:
    import os
    import subprocess

    mark = Path(os.environ["DBOS_TEST_TRAP"] + " of the test")
    subprocess.run(
        [sys.executable, "-c", f"import {TRAP}"], check=True, cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "DBOS_TEST_TRAP": str(mark)},
    )  # fmt: skip
    assert mark.exists()


@pytest.mark.usefixtures("_others_go_on")
async def test_d1_d5_a_hostile_input_is_the_error_of_its_workflow_which_it_names(
    database_url: str, connection: Any
) -> None:
    for place, text in enumerate(HOSTILE):
        await connection.execute(
            """
            insert into dbos_async.workflows (id, name, input, attempt, start_id, trace_parent)
            values ($1, 'a child', $2, 1000000, gen_random_uuid(), $3)
            """,
            f"w-{place}", text, text[:100].replace("\0", ""),
        )  # fmt: skip
    async with DBOS(database_url), DBOSClient(database_url) as client:
        for place in range(len(HOSTILE)):
            with pytest.raises((InvalidValueError, TypeError)) as raised:
                await (await client.retrieve_workflow(f"w-{place}")).get_result()
            if isinstance(raised.value, InvalidValueError):
                assert f"'w-{place}'" in str(raised.value)
        assert len(await client.list_workflows(id_prefix="w-", status="ERROR")) == len(HOSTILE)


@pytest.mark.usefixtures("_others_go_on")
@pytest.mark.parametrize("column", ["output", "error"])
async def test_d1_d5_a_hostile_outcome_raises_where_it_is_read_and_can_be_looked_at(
    column: str, database_url: str, connection: Any
) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        for place, text in enumerate(HOSTILE):
            with SetWorkflowID(f"w-{place}"):
                await (await DBOS.start_workflow(a_child, Order(number=1))).get_result()
            handle = await DBOS.retrieve_workflow(f"w-{place}")
            await connection.execute(f"update dbos_async.workflows set {column} = $2 where id = $1", f"w-{place}", text)
            with pytest.raises((InvalidValueError, RecordedError)) as raised:
                await handle.get_result()
            named = isinstance(raised.value, InvalidValueError) or "unreadable" in str(raised.value)
            assert not named or f"'w-{place}'" in str(raised.value)
            by_name = await client.retrieve_workflow(f"w-{place}")
            if column == "error":
                with pytest.raises(RecordedError):
                    await by_name.get_result()
            looked_at = getattr(await by_name.get_status(), column)
            assert looked_at == _read_or_text(text)
        assert len(await client.list_workflows(id_prefix="w-")) == len(HOSTILE)


def _read_or_text(text: str) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    else:
        return text if "Infinity" in json.dumps(value) or len(text) > 1000 else value


@pytest.mark.usefixtures("_others_go_on")
async def test_d1_d5_hostile_messages_are_rejected_by_name_and_the_queue_goes_on(
    database_url: str, connection: Any
) -> None:
    ids = [UUID(int=place + 1) for place in range(2 * len(HOSTILE))]

    @DBOS.workflow(name="receives hostile messages")
    async def receives() -> list[list[str]]:
        seen = []
        for place in range(len(ids) + 1):
            try:
                found: Any
                if place % 2:
                    found = await DBOS.recv_envelope(Topic("t", Order))
                else:
                    found = await DBOS.recv(Topic("t", Order))
                seen.append(["read", str(found)])
            except InvalidMessageError as error:
                seen.append([str(error.message_id), str(error)])
        return seen

    async with DBOS(database_url):
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(receives)
        insert = """
            insert into dbos_async.messages (id, seq, destination_id, topic, payload, headers)
            values ($1, nextval('dbos_async.message_seq'), 'w', 't', $2, $3)
        """
        async with connection.transaction():
            for message_id, (place, text) in zip(ids, enumerate(t for t in HOSTILE for _ in range(2)), strict=True):
                # Either the payload is hostile or, in an envelope, the headers are.
                headers = text if place % 2 else None
                await connection.execute(insert, message_id, '{"number": 1}' if place % 4 == 3 else text, headers)
        await DBOS.send("w", {"number": 5}, "t")
        seen = await handle.get_result()
        for place, (message_id, text) in enumerate(zip(ids, (t for t in HOSTILE for _ in range(2)), strict=True)):
            told, sentence = seen[place]
            if told == "read":
                assert place % 4 == 3, (place, text)
                assert text in ("null", "{}") or '"type"' in text or '"py/object"' in text or '"args"' in text, text
                continue
            assert told == str(message_id)
            assert told in sentence
            assert "\n" not in sentence
        assert seen[-1] == ["read", "number=5"]
        listed = await DBOS.list_messages("w")
        assert [message.id for message in listed[:-1]] == ids
        rejected = [place for place, (told, _) in enumerate(seen) if told != "read"]
        assert [place for place, message in enumerate(listed) if message.rejected] == rejected


@pytest.mark.usefixtures("_others_go_on")
async def test_d1_d5_hostile_events_and_stream_values_name_their_key_and_offset(
    database_url: str, connection: Any
) -> None:
    async with DBOS(database_url), DBOSClient(database_url) as client:
        with SetWorkflowID("w"):
            await DBOS.start_workflow(everything, Order(number=1))
        await eventually(lambda: _has_steps("w", STEPS))
        for place, text in enumerate(HOSTILE):
            await connection.execute("update dbos_async.events set value = $1 where workflow_id = 'w'", text)
            await connection.execute("update dbos_async.stream_entries set value = $1 where workflow_id = 'w'", text)
            for side in (DBOS, client):
                with pytest.raises(InvalidValueError, match="event 'e' of workflow 'w'"):
                    await side.get_event("w", Event("e", Order))
                with pytest.raises(InvalidStreamValueError, match="Value 0 of stream 's'"):
                    async for _ in side.read_stream("w", Stream("s", Order)):
                        raise AssertionError(f"{place} was read")
                try:
                    everything_said = await side.get_all_events("w")
                    assert everything_said == {"e": _read_or_text(text)}
                except InvalidValueError as error:
                    assert "event 'e' of workflow 'w'" in str(error)
        await DBOS.send("w", None, "end")
        assert await (await DBOS.retrieve_workflow("w")).get_result() == 1


async def _has_steps(workflow_id: str, count: int) -> bool:
    return len(await DBOS.list_workflow_steps(workflow_id)) >= count


COLUMNS = ("output", "error", "verb", "key", "input")


@pytest.mark.usefixtures("_others_go_on")
@pytest.mark.parametrize("column", COLUMNS)
async def test_d1_d5_hostile_records_of_steps_stop_their_own_workflow_only(
    column: str, database_url: str, connection: Any
) -> None:
    """Every step of a workflow is overwritten by something hostile, one at a time, each in a workflow of its own."""
    hostile = HOSTILE[:: 1 if column == "input" else 3]
    cases = [(step, text) for step in range(1, STEPS + 1) for text in hostile] if column != "input" else [
        (0, text) for text in hostile
    ]  # fmt: skip
    names = [f"w-{place}" for place in range(len(cases))]
    async with DBOS(database_url):
        for name in names:
            with SetWorkflowID(name):
                await DBOS.start_workflow(everything, Order(number=1))
        await eventually(lambda: _all_have_steps(connection, len(cases)), give_up_after_seconds=60)
    for name, (step, text) in zip(names, cases, strict=True):
        if column == "input":
            await connection.execute("update dbos_async.workflows set input = $2 where id = $1", name, text)
            continue
        value = text.replace("\0", "") if column in ("verb", "key") else text
        await connection.execute(
            f"update dbos_async.steps set {column} = $3 where workflow_id = $1 and number = $2 and branch = ''",
            name, step, value,
        )  # fmt: skip
    async with DBOS(database_url):
        for name in names:
            await DBOS.send(name, None, "end")
        await eventually(_none_runs, give_up_after_seconds=60)
        statuses = {status.workflow_id: status for status in await DBOS.list_workflows(id_prefix="w-", limit=1000)}
        for name, (step, text) in zip(names, cases, strict=True):
            status = statuses[name]
            assert status.status in ("SUCCESS", "ERROR", "REPLAY_MISMATCH"), (name, step, text)
            if column in ("verb", "key", "input"):
                assert status.status == "REPLAY_MISMATCH", (step, text, status.error)
            if status.status == "REPLAY_MISMATCH":
                # A start that names another child is noticed by the next step.
                assert status.error["args"][0] == name
                assert status.error["args"][1] in (str(step), str(step + 1))
            if status.status == "ERROR":
                _check_error(status.error, name, step, text)
            await DBOS.list_workflow_steps(name)


async def _all_have_steps(connection: Any, count: int) -> bool:
    counted = "select count(*) from dbos_async.steps where verb = 'recv' and key = 'end'"
    return await connection.fetchval(counted) == count  # type: ignore[no-any-return]  # asyncpg's fetchval is Any


async def _none_runs() -> bool:
    return not await DBOS.list_workflows(status="PENDING", limit=1)


def _check_error(error: Any, name: str, step: int, text: str) -> None:
    """The workflow ended with the error that was put there, or with one of dbos_async that names the row that cannot be read."""
    if error["type"] == "dbos_async.errors:RecordedError":
        type_name = error["args"][0]
        assert type_name == f"an unreadable record of step {step} of workflow {name!r}" or f'"{type_name}"' in text
        return
    assert error["type"].startswith("dbos_async.errors:Invalid"), (step, text, error)
