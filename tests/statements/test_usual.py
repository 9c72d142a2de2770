"""The short texts for usual calls do what the full ones do, or nothing (M1, M4, M5, E2, S2, W3)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from dbos_async._database.statement import Statement
from tests.support.statements import ACTS, Row, all_statements, arguments, forms, step

USUAL = {name: statement for name, statement in all_statements().items() if statement.sql_if_usual is not None}

MESSAGE = UUID(int=7)

WITHOUT_TIMES = """
    select json_build_object(
        'steps', (select json_agg(json_build_object('number', number, 'verb', verb, 'key', key, 'output', output, 'error', error,
            'message', message_id, 'waits', deadline is not null, 'done', completed_at is not null, 'place', place,
            'asked', asked_after) order by branch, number) from dbos_async.steps),
        'messages', (select json_agg(json_build_object('id', id, 'to', destination_id, 'topic', topic, 'payload', payload,
            'sender', sender_id, 'headers', headers, 'received', received_at is not null, 'question', is_question) order by seq)
            from dbos_async.messages),
        'events', (select json_agg(json_build_object('of', workflow_id, 'key', key, 'value', value, 'step', step,
            'attempt', attempt, 'act', act) order by seq) from dbos_async.events),
        'streams', (select json_agg(json_build_object('of', workflow_id, 'key', key, 'offset', "offset", 'value', value,
            'closes', closes, 'step', step, 'attempt', attempt, 'act', act) order by workflow_id, key_digest, "offset")
            from dbos_async.stream_entries))::text
"""

STATES = {
    "nothing there": "delete from dbos_async.messages where destination_id = 'w'",
    "messages wait": """
        delete from dbos_async.messages where destination_id = 'w';
        insert into dbos_async.messages (id, seq, destination_id, topic, payload, headers)
            select ('00000000-0000-0000-0000-00000000000' || n)::uuid, n, 'w', case when n < 3 then 'x' else '' end, to_json(n),
                   case when n = 3 then '{"a":"b"}'::json end
            from generate_series(1, 5) as n
        """,
    "the stream is written": """
        insert into dbos_async.stream_entries (workflow_id, key, "offset", batch, count, nth, step, attempt, act)
            values ('w', 'k', 0, array['1', '2']::json[], 2, 0, '1', 1, 0)
        """,
    "the stream is closed": """
        insert into dbos_async.stream_entries (workflow_id, key, "offset", closes, step, attempt, act)
            values ('w', 'k', 0, true, '1', 1, 0)
        """,
    "the other has an executor": """
        update dbos_async.workflows set status = 'PENDING', ended_at = null, output = null, owner = 'x:1:0123456789ab'
        where id = 'other'
        """,
    "the other waits for an executor": """
        update dbos_async.workflows set status = 'PENDING', ended_at = null, output = null where id = 'other'
        """,
    "the other is gone": "delete from dbos_async.workflows where id = 'other'",
    "the run has lost its workflow": "update dbos_async.workflows set attempt = 2 where id = 'w'",
    "the workflow has ended": "update dbos_async.workflows set status = 'SUCCESS', ended_at = now() where id = 'w'",
}

NEVER_USUAL = {"the run has lost its workflow", "the workflow has ended"}


def rows_of(name: str) -> dict[str, Row]:
    """Calls of a statement, usual ones and others."""
    if name == "SEND_EXTERNAL":
        return {
            each: (MESSAGE, to, "t", '"x"', '{"h":"1"}', b"12345678", executor)
            for each, to, executor in (
                ("to the other", "other", None), ("to itself", "w", "me"), ("in a transaction", "w", ""),
            )
        }  # fmt: skip
    if name == "SEND":
        send = "send", "other", MESSAGE, "other", "t", '"x"', None, b"12345678", "me"
        return {
            "a step": (*step(1), *send, None, None, None, None),
            "inside a step": (*step(None), *send, None, None, None, None),
            "from outside": (None, None, None, None, *send, None, None, None, None),
            "to one that waits here": (*step(1), *send, 1, "", 1, None),
            "a question": (*step(1), "ask", *send[1:], None, None, None, None),
        }
    if name == "TAKE":
        return {
            "a recv": (*step(1), "recv", "", 60.0, False),
            "without a limit": (*step(1), "recv", "", None, True),
            "of another topic": (*step(1), "recv", "x", 60.0, True),
            "that does not wait": (*step(1), "recv", "", 0.0, False),
            "an envelope": (*step(1), "recv_envelope", "", 60.0, False),
        }
    if name == "WRITE":
        write = "1", "write_stream", "k", '{"a": 1}', 5, -1, b"12345678"
        return {
            "a value": (*step(1), *write),
            "a long one": (*step(1), *write[:3], f'"{"x" * 3000}"', *write[4:]),
            "the end": (*step(1), "1", "close_stream", "k", None, *write[4:]),
            "inside a step": (*step(None), *write),
        }
    assert name == "SET_EVENT"
    event = "1", "k", '"ä"', 5, b"12345678"
    return {"a value": (*step(1), *event), "a long one": (*step(1), "1", "k", f'"{"x" * 3000}"', 5, b"12345678"),
            "inside a step": (*step(None), *event)}  # fmt: skip


async def _outcome(connection: Any, statement: Statement, form: str, row: Row, state: str) -> tuple[Any, ...]:
    """The answer without what only the full text tells or depends on time, and what is in the tables; then all is undone."""
    await connection.execute("begin")
    try:
        await connection.execute(STATES[state])
        asked = arguments(form, [0], ((*row, 3, 2) if statement.is_ordered else row,))
        answer = await connection.fetch(forms(statement)[form], *asked)
        found = [
            {key: value for key, value in record.items() if key not in ("is_announced", "seconds_left", "age")}
            for record in answer
        ]
        return found, await connection.fetchval(WITHOUT_TIMES)
    finally:
        await connection.execute("rollback")


@pytest.mark.parametrize("name", USUAL)
async def test_a_usual_text_does_what_the_full_one_does_or_nothing(one: Any, name: str) -> None:
    statement = USUAL[name]
    for what, row in rows_of(name).items():
        for state, made in STATES.items():
            usual, after_usual = await _outcome(one, statement, "usual, alone", row, state)
            full, after_full = await _outcome(one, statement, "new, alone", row, state)
            case = name, what, state
            if usual:
                assert (usual, after_usual) == (full, after_full), case
                assert state not in NEVER_USUAL or name == "SEND_EXTERNAL", case
                assert "inside" not in what, case
            else:
                await one.execute("begin")
                await one.execute(made)
                assert after_usual == await one.fetchval(WITHOUT_TIMES), (*case, "nothing was done")
                await one.execute("rollback")


async def test_usual_calls_are_usual(one: Any) -> None:
    for name, what, state in (
        ("SEND", "a step", "the other has an executor"), ("SEND_EXTERNAL", "to the other", "the other has an executor"),
        ("TAKE", "a recv", "messages wait"), ("TAKE", "a recv", "nothing there"), ("WRITE", "a value", "the stream is written"),
        ("WRITE", "the end", "nothing there"), ("SET_EVENT", "a value", "nothing there"),
    ):  # fmt: skip
        usual, _ = await _outcome(one, USUAL[name], "usual, alone", rows_of(name)[what], state)
        assert len(usual) == 1, (name, what)
    assert set(USUAL) <= {*ACTS, "SEND_EXTERNAL"}
