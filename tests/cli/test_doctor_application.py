"""The doctor and the rows of an application: what needs a person is named, with what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from dbos_async import DBOS
from dbos_async._operations.doctor.application import SEE_SEQUENCES
from tests.support.databases import execute
from tests.support.examined import found_by, told

WORKFLOW = """
    insert into dbos_async.workflows (id, name, input, start_id, attempt, status, owner, application_version, deadline, due_at)
    values ({id}, 'pay', '{{}}', gen_random_uuid(), 1000001, {status}, {owner}, {version}, {deadline}, {due_at})
"""


def workflow(
    id: str,
    status: str = "'PENDING'",
    owner: str = "null",
    version: str = "null",
    deadline: str = "null",
    due_at: str = "null",
) -> str:
    """Statement that makes a workflow; each value is SQL."""
    return WORKFLOW.format(id=f"'{id}'", status=status, owner=owner, version=version, deadline=deadline, due_at=due_at)


EXECUTOR = """
    insert into dbos_async.executors (id, executor_id, workflow_names, lease_until)
    values ('{id}', '{executor_id}', '{{pay}}', clock_timestamp() + interval '{lease}')
"""
MESSAGE = """
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at, rejected)
    values (gen_random_uuid(), {seq}, 'w', 'paid', '1', now(), {rejected})
"""
DELAYED = """
    insert into dbos_async.delayed_messages (id, seq, destination_id, due_at, topic, payload, digest)
    values (gen_random_uuid(), {seq}, 'w', now() - interval '10 minutes', 'paid', '1', 'd')
"""

PLANTED = {
    "an executor that is gone": (
        [EXECUTOR.format(id="shop-1:aa", executor_id="shop-1", lease="-10 minutes"), workflow("w", owner="'shop-1:aa'")],
        "executors", "problem",
        r"Executor 'shop-1', whose lease ran out 10 min ago, is gone and has left 1 workflow\.",
        "No executor is live: launch one",
    ),
    "an owner without a row, beside a live executor": (
        [EXECUTOR.format(id="shop-2:bb", executor_id="shop-2", lease="1 minute"), workflow("w", owner="'shop-1:aa'"),
         workflow("v", owner="'shop-1:aa'")],
        "executors", "warning",
        r"Executor 'shop-1' is gone and has left 2 workflows\.",
        "A live executor takes them over within 30 s",
    ),
    "two executors of one id": (
        [EXECUTOR.format(id=f"shop-1:{mark}", executor_id="shop-1", lease="1 minute") for mark in "ab"],
        "executors", "warning",
        r"2 live executors have the executor_id 'shop-1'\.",
        "Give each process an executor_id of its own",
    ),
    "a workflow of a version that nobody runs": (
        [EXECUTOR.format(id="e", executor_id="e", lease="1 minute"), "update dbos_async.executors set application_version = '2'",
         workflow("w", version="'1'"), workflow("v", version="'2'")],
        "unclaimable", "warning",
        r"No live executor can run 1 workflow: 1 of 'pay' \(version 1\)\.",
        "resume_workflow(id, application_version=…)",
    ),
    "a replay mismatch": (
        [workflow("w", status="'REPLAY_MISMATCH'"), workflow("v", status="'REPLAY_MISMATCH'")],
        "parked", "warning",
        r"2 workflows are parked \(REPLAY_MISMATCH\), such as 'v': their code asks for other steps",
        "Repair the code, then: dbos-async workflows resume --status REPLAY_MISMATCH",
    ),
    "a workflow that ends its process": (
        [workflow("w", status="'MAX_RECOVERY_ATTEMPTS_EXCEEDED'")],
        "parked", "warning",
        r"1 workflow is parked \(MAX_RECOVERY_ATTEMPTS_EXCEEDED\), such as 'w': the process died under them",
        "Find what ends it",
    ),
    "a rejected message": (
        ["select setval('dbos_async.message_seq', 9)", MESSAGE.format(seq=1, rejected="'{}'")],
        "rejected", "warning",
        r"1 message is rejected, the last one about 'paid' to 'w'",
        "dbos-async messages redeliver",
    ),
    "a delayed message that nobody moves": (
        ["select setval('dbos_async.delayed_seq', 9)", DELAYED.format(seq=1)],
        "overdue", "problem",
        r"1 delayed message is overdue for up to 10 min: no executor has seen to that\.",
        "Launch an executor",
    ),
    "a deadline that nobody keeps": (
        [workflow("w", deadline="now() - interval '1 hour'")],
        "overdue", "problem",
        r"1 deadline is overdue for up to 60 min",
        "Launch an executor",
    ),
    "a delayed start that does not come": (
        [workflow("w", status="'DELAYED'", due_at="now() - interval '3 days'")],
        "overdue", "problem",
        r"1 delayed start is overdue for up to 3 days",
        "Launch an executor",
    ),
    "message_seq behind": (
        [MESSAGE.format(seq=500, rejected="null")],
        "sequences", "problem",
        r"The sequence message_seq is at 0, and its table at 500: the new would come before the old\.",
        "select setval('dbos_async.message_seq', (select max(seq) from dbos_async.messages));",
    ),
    "event_seq behind": (
        ["insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act) values ('w', 'k', 70, '1', '1', 1, 0)",
         "select setval('dbos_async.event_seq', 7)"],
        "sequences", "problem",
        r"The sequence event_seq is at 7, and its table at 70",
        "select setval('dbos_async.event_seq', (select max(seq) from dbos_async.events));",
    ),
    "delayed_seq behind": (
        [DELAYED.format(seq=3)],
        "sequences", "problem",
        r"The sequence delayed_seq is at 0, and its table at 3",
        "select setval('dbos_async.delayed_seq', (select max(seq) from dbos_async.delayed_messages));",
    ),
    "workflow_seq behind": (
        [workflow("w", status="'SUCCESS'")],
        "sequences", "problem",
        r"The sequence workflow_seq is at 0, and its table at 1:",
        "select setval('dbos_async.workflow_seq', (select max(attempt) / 1000000 from dbos_async.workflows));",
    ),
}  # fmt: skip
"""By what is wrong: how it comes to be, the check that finds it, the level, and what must be said and advised."""


@pytest.mark.parametrize("what", PLANTED)
async def test_what_needs_a_person_is_named(database_url: str, what: str) -> None:
    statements, check, level, says, advice = PLANTED[what]
    await execute(database_url, *statements)
    (found,) = await found_by(database_url, check)
    assert found.level == level
    assert re.match(says, found.says), told([found])
    assert advice in str(found.advice), told([found])


async def test_the_advice_for_a_sequence_repairs_it(database_url: str) -> None:
    await execute(database_url, MESSAGE.format(seq=500, rejected="null"), workflow("w", status="'SUCCESS'"))
    for finding in await found_by(database_url, "sequences"):
        await execute(database_url, str(finding.advice).partition(": ")[2])
    assert await found_by(database_url, "sequences") == []


@pytest.mark.listens("only a listening executor has a beat")
async def test_an_executor_whose_row_is_not_renewed_is_live(database_url: str, connection: Any) -> None:
    async with DBOS(database_url, executor_id="shop-1"):
        # Its row cannot be renewed, and the beat goes on.
        await connection.execute(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'not now'; end $$;"
            "create trigger refuse before update or insert on dbos_async.executors for each row execute function refuse();"
            "alter table dbos_async.executors disable trigger refuse;"
            "update dbos_async.executors set lease_until = now() - interval '1 minute';"
            "alter table dbos_async.executors enable trigger refuse;"
        )
        (found,) = await found_by(database_url, "executors")
        await connection.execute("drop trigger refuse on dbos_async.executors")
    assert found.level == "warning"
    assert "The lease of executor 'shop-1' ran out" in found.says
    assert "its connection is open" in found.says


async def test_a_large_table_is_not_read_whole(database_url: str, connection: Any) -> None:
    """Sequences are compared with some pages of a table."""
    await connection.execute(
        "insert into dbos_async.messages (id, seq, destination_id, topic, payload) "
        "select gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', 'paid', to_json(repeat('x', 2000)) "
        "from generate_series(1, 10000)"
    )
    plan = await connection.fetch(
        f"explain {SEE_SEQUENCES.sql.one_row.replace('$1::int', '0').replace('$2::int', '50')}"
    )
    text = "\n".join(row[0] for row in plan)
    assert text.count("Tid Range Scan on messages") == 2, text
    assert await found_by(database_url, "sequences") == []
