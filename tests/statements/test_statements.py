"""Every SQL constant fits the schema, and the hot ones find their rows by index however the tables have grown."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async._database import migrations
from dbos_async._database.connection_kinds import SETTINGS, OwnConnection
from dbos_async._lifecycle import lease_thread
from tests.support.statements import (
    ACTS,
    FETCHED,
    FORMS,
    QUESTION,
    SETTING,
    Row,
    all_statements,
    arguments,
    forms,
    step,
)

STATEMENTS = {
    (name, form): sql for name, statement in all_statements().items() for form, sql in forms(statement).items()
}

FOREIGN = """
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt, status)
        select 'f' || n, 'f', '{}', gen_random_uuid(), case when n % 2 = 0 then 'somebody' end, 1,
               case when n % 3 = 0 then 'SUCCESS' else 'PENDING' end
        from generate_series(1, 100000) as n;
    insert into dbos_async.steps (workflow_id, branch, number, verb, key)
        select 'f' || n % 20000, '', n / 20000 + 1, 'recv', '' from generate_series(0, 99999) as n;
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'f' || n % 20000, '', '1', case when n % 2 = 0 then now() end
        from generate_series(1, 100000) as n;
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        select 'f' || n % 20000, 'k', nextval('dbos_async.event_seq'), '1', '1', 1, 0 from generate_series(1, 100000) as n;
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select 'f' || n % 100, 'k', n / 100, '1', '1', 1, 0 from generate_series(0, 99999) as n;
"""

OWN = """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key)
        select 'w', '', n + 10, 'recv', '' from generate_series(1, 20000) as n;
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', '', '1', now() from generate_series(1, 20000) as n;
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select id, 'k', n, '1', '1', 1, 0 from generate_series(3, 20000) as n, unnest(array['w', 'other']) as id;
    insert into dbos_async.stream_entries (workflow_id, key, "offset", batch, count, nth, step, attempt, act)
        select 'w', 'k', 20001 + 2 * n, array['1', '2']::json[], 2, 2 * n, '1', 1, 0 from generate_series(0, 2) as n;
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        select 'w', 'k', nextval('dbos_async.event_seq'), '1', '1', 1, 0 from generate_series(1, 20000) as n;
"""

RECEIVED, ASKED = uuid4(), uuid4()

TAKEN = f"""
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at)
        values ('{RECEIVED}', nextval('dbos_async.message_seq'), 'w', '', '1', now());
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, message_id, completed_at)
        values ('w', '', 5, 'recv', '', '{RECEIVED}', now());
    insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        values ('{ASKED}', nextval('dbos_async.message_seq'), 'other', '', '1');
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, output)
        values ('w', '', 6, 'ask', 'other', json_build_object('message_id', '{ASKED}'));
"""

HOT: dict[str, Row] = {
    **{name: act.row(step(1), "x") for name, act in ACTS.items() if name in all_statements()},
    "CLOSE": ("w", "", 5),
    "SEND_EXTERNAL": (uuid4(), "w", "x", "1", None, b"d", "me"),
    "START": ("new", "f", "{}", "me", None, None, uuid4(), None, None, b"d"),
    "PAGE": ("w", "", 0),
    "READ_EVENT": ("other", "k", 0),
    "ALL_EVENTS": ("other",),
    "READ": ("other", "k", 0, 500, None),
    "REWIND": ("w", 1, "1", "k", '["x"]', 5, -1, b"d"),
    "WRITTEN": ("w", "k", "1"),
    "TAIL": ("other", "k"),
    "RESULT": ("other",),
    "STATUS": ("other",),
    "FINISH": ("w", 1, "SUCCESS", "1", None, b"d"),
    "CLAIM": ("me", '["f"]', None, 1),
    "WAITING_NAMES": ("", 100),
    "PATCH": ("w", 1, '{"x": {"branch": "", "number": 1, "asked_after": null}}'),
    "UNPATCH": ("w", 1, '["x"]', b"d"),
    "PUT_BACK": (*step(5), "recv", "", RECEIVED),
    "RECORD_REJECTION": (*step(5), None, "{}"),
    "CUT_OFF": step(5),
    "READ_ANSWER": (QUESTION,),
    "READ_ANSWER_OF": (QUESTION, "w", None),
    "AWAIT_ANSWER": (*step(6), "other", "other", 60.0),
    "POLL": ("message", "w", "", None),
    "TAKE_WAITING": (*step(11), "recv", "", 60.0, True),
}

MAX_BUFFERS = 52
"""50 were measured for the statement that touches most: one that takes three rows of a stream back. A page of one of several
streams inside a workflow touches 46, a repeated receive 35."""

MORE_BUFFERS = {"TRIM": 86}
"""Of statements that call a function of several statements. A trim of two rows touches 82, however large the stream is."""


@pytest.fixture
async def plain(database_url: str) -> Any:
    """A connection with the settings that the library gives its own."""
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    yield connection
    await connection.close()


HOT_FORMS = [(name, form) for name, form in STATEMENTS if name in HOT]


async def test_there_are_statements_to_test() -> None:
    assert len(STATEMENTS) >= 60
    assert {name for name, _ in HOT_FORMS} == set(HOT)
    assert {form for _, form in HOT_FORMS} == set(FORMS)


@pytest.mark.parametrize(("name", "form"), STATEMENTS)
async def test_every_statement_can_be_prepared(name: str, form: str, plain: Any) -> None:
    prepared = await plain.prepare(STATEMENTS[name, form])
    kind = "int4" if form.endswith("alone") else "int4[]"
    assert prepared.get_parameters()[0].name == kind, "the first parameter is the numbers of the calls"
    assert prepared.get_attributes()[0].name == "n", "every row of the answer says which call it answers"


@pytest.mark.parametrize(
    "sql",
    [
        lease_thread.LOCK_LIVENESS,
        lease_thread.BEAT,
        migrations.LOCK,
        migrations.FIND_SCHEMA,
        migrations.FIND_TABLE,
        migrations.APPLIED,
        migrations.NOTE,
    ],
)
async def test_the_other_sql_can_be_prepared(sql: str, plain: Any) -> None:
    await plain.prepare(sql)


async def test_every_statement_is_constant_text() -> None:
    for sql in STATEMENTS.values():
        assert "%" not in sql
        assert "format(" not in sql


async def call(connection: Any, name: str, form: str) -> str:
    """The prepared statement's execution, with its arguments written out."""
    types = (await connection.prepare(STATEMENTS[name, form])).get_parameters()
    literals = [
        await connection.fetchval(f"select quote_nullable(($1::{t.name})::text)", value) + f"::{t.name}"
        for t, value in zip(
            types, arguments(form, [0], (HOT[name],), is_ordered=all_statements()[name].is_ordered), strict=True
        )
    ]
    return f'execute "{name} {form}" ({", ".join(literals)})'


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


def updated_by(plan: dict[str, Any]) -> set[str]:
    """The indexes by which updates of messages find their rows."""
    updates = [
        node for node in nodes(plan) if node.get("Operation") == "Update" and node["Relation Name"] == "messages"
    ]
    scans = [node for update in updates for node in nodes(update) if node.get("Relation Name") == "messages"]
    return {scan.get("Index Name", scan["Node Type"]) for scan in scans if scan["Node Type"] != "ModifyTable"}


@pytest.mark.parametrize("planned_when", ["empty", "full", "full and analyzed"])
async def test_hot_statements_use_their_index(planned_when: str, plain: Any) -> None:
    problems = await problems_of_plans(planned_when, plain, HOT_FORMS)
    assert not problems, "\n".join(problems)


async def test_statements_in_transactions_of_users_use_their_index_without_our_settings(database_url: str) -> None:
    """They are planned anew for each call, with the settings of the server."""
    connection = await asyncpg.connect(database_url, server_settings={"plan_cache_mode": "force_custom_plan"})
    in_steps = {name for name, act in ACTS.items() if act.works_in_steps and name != "TRIM"}
    names = {"SEND_EXTERNAL", "START", "RECORD"} | in_steps
    try:
        problems = await problems_of_plans("full and analyzed", connection, [(name, "") for name in names & HOT.keys()])
    finally:
        await connection.close()
    assert not [problem for problem in problems if "updates messages by Bitmap" not in problem], "\n".join(problems)


async def problems_of_plans(planned_when: str, plain: Any, hot_forms: list[tuple[str, str]]) -> list[str]:
    """Prepare statements at that moment, fill the tables, and say what is wrong with the plans."""

    async def prepare() -> None:
        for name, form in hot_forms:
            prepared = await plain.prepare(STATEMENTS[name, form])
            types = ", ".join(t.name for t in prepared.get_parameters())
            await plain.execute(f'prepare "{name} {form}" ({types}) as {STATEMENTS[name, form]}')
            transaction = plain.transaction()
            await transaction.start()
            await plain.execute(await call(plain, name, form))  # now the plan is made, and kept
            await transaction.rollback()

    if planned_when == "empty":
        await plain.execute("analyze")
        await prepare()
    await plain.execute(SETTING)
    await plain.execute(FOREIGN)
    await plain.execute(OWN)
    await plain.execute(TAKEN)
    if planned_when == "full and analyzed":
        await plain.execute("analyze")
    if planned_when != "empty":
        await prepare()
    for hot in hot_forms:
        await look_at_plan(plain, *hot)  # What a session looks up in the catalog for the first time does not count.
    return [problem for hot in hot_forms for problem in await look_at_plan(plain, *hot)]


async def test_statements_of_a_connection_without_a_session_are_planned_with_our_settings(database_url: str) -> None:
    """The settings come with each execution: what is planned without them would read whole tables."""
    connection: OwnConnection = await asyncpg.connect(database_url, connection_class=OwnConnection)
    assert not connection.has_session
    await connection.execute(SETTING)
    await connection.execute(FOREIGN)
    await connection.execute(OWN)
    await connection.execute("analyze")
    for name in ("RECORD", "SEND", "TAKE", "WRITE"):
        for form in ("alone", ""):
            row = arguments(form, [0], (HOT[name],), is_ordered=all_statements()[name].is_ordered)
            for _ in range(2):  # the second time is in another form
                text = await connection.fetchval(f"explain (format json) {STATEMENTS[name, form]}", *row)
                scans = [node for node in nodes(json.loads(text)[0]["Plan"]) if node["Node Type"] == "Seq Scan"]
                assert not scans, f"{name} ({form})"
    assert await connection.fetchval("show enable_seqscan") == "off"
    raw = await asyncpg.Connection.fetchval(connection, "select current_setting('enable_seqscan')")
    assert raw == "on", "and nothing is left of them"
    await connection.close()


async def look_at_plan(connection: Any, name: str, form: str) -> list[str]:
    """What is wrong with the plan of one call."""
    transaction = connection.transaction()
    await transaction.start()
    execution = await call(connection, name, form)
    before = await connection.fetchval(FETCHED)
    answer = await connection.fetchval(f"explain (analyze, format json) {execution}")
    buffers = await connection.fetchval(FETCHED) - before
    await transaction.rollback()
    plan = json.loads(answer)[0]["Plan"]
    problems = []
    for node in nodes(plan):
        where = f"{name} ({form}): {node['Node Type']} on {node.get('Relation Name', node.get('CTE Name'))}"
        if node["Node Type"] == "Seq Scan" and node["Actual Loops"]:  # else it is a part that this call did not need
            problems.append(f"{where} reads the whole table")
        if node.get("Rows Removed by Filter", 0) > 10 or node["Actual Rows"] > 1010:
            problems.append(f"{where} reads {node['Actual Rows']} rows, {node.get('Rows Removed by Filter')} in vain")
    problems += [f"{name} ({form}) updates messages by {index}" for index in updated_by(plan) - {"messages_pkey"}]
    if buffers > MORE_BUFFERS.get(name, MAX_BUFFERS):
        problems.append(f"{name} ({form}) touches {buffers} buffers")
    return problems


WAITING = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt)
        select 'w' || n, 'unknown ' || n % 5, '{}', gen_random_uuid(), 0 from generate_series(1, 1000) as n
"""


async def test_a_claim_reads_no_workflow_of_a_name_that_it_does_not_look_for(plain: Any) -> None:
    await plain.execute(WAITING)
    await plain.execute("analyze")
    for name, row in (("CLAIM", ("me", '["f", "g", "h"]', None, 100)), ("WAITING_NAMES", ("", 100))):
        prepared = await plain.prepare(f"explain (analyze, format json) {all_statements()[name].sql.one_row}")
        plan = json.loads(await prepared.fetchval(0, *row))[0]["Plan"]
        scans = [node for node in nodes(plan) if node.get("Relation Name") == "workflows"]
        assert {scan["Index Name"] for scan in scans if scan["Node Type"].startswith("Index")} == {"workflows_unowned"}
        assert sum(scan["Actual Rows"] * scan["Actual Loops"] for scan in scans) <= 6
        assert not [scan for scan in scans if scan.get("Rows Removed by Filter")]
