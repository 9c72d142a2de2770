"""Every statement answers each of the calls that share a batch by the number of that call, and none by the number of another."""

from __future__ import annotations

import hashlib
import re
from typing import Any
from uuid import UUID, uuid5

import asyncpg
import pytest

from dbos_async._database.connection_kinds import SETTINGS
from tests.support.statements import all_statements, forms

NUMBERS = [4, 7, 9]
"""The numbers of three calls that share a batch."""

ROWS_OF_CALLS = re.compile(r" as c\(n, ([^)]*)\)")

STATEMENTS = {
    f"{name} ({form or 'any'})": sql
    for name, statement in all_statements().items()
    for form, sql in forms(statement).items()
    if not form.endswith("alone") and ROWS_OF_CALLS.search(sql)  # others are never called twice at a time
}

SETTING = """
    insert into dbos_async.workflows
        (id, name, input, start_id, owner, attempt, status, output, ended_at, deadline, due_at, parent_id)
        select 'w' || n, 'f', '{}', gen_random_uuid(), 'me', 1, $1, case when $1 = 'SUCCESS' then '1'::json end,
               case when $1 in ('SUCCESS', 'CANCELLED') then now() end, now(), now(), 'w' || n
        from unnest($2::int[]) as n
"""
ROWS = [
    """
    insert into dbos_async.delayed_messages (id, seq, destination_id, due_at, topic, payload, digest)
        select gen_random_uuid(), 1, 'w' || n, now(), 'k', '1', 'd' from unnest($1::int[]) as n
    """,
    """
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, received_at, rejected)
        select md5(n::text)::uuid, nextval('dbos_async.message_seq'), 'w' || n, 'k', '1', now(), '{}' from unnest($1::int[]) as n
    """,
    """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key, message_id, completed_at, place, asked_after)
        select 'w' || n, '', 1, 'recv', 'k', md5(n::text)::uuid, now(), 1, 1 from unnest($1::int[]) as n
    """,
    """
    insert into dbos_async.steps (workflow_id, branch, number, verb, key)
        select 'w' || n, '1.1', 1, 'recv', 'other' from unnest($1::int[]) as n
    """,
    """
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        select 'w' || n, 'k', nextval('dbos_async.event_seq'), '1', '1', 1, 0 from unnest($1::int[]) as n
    """,
    """
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select 'w' || n, 'other', 0, '1', '1', 1, 0 from unnest($1::int[]) as n
    """,
]

FIXED: dict[str, tuple[str, Any]] = {
    "branch": ("text", ""), "verb": ("text", "send"), "key": ("text", "k"), "step_key": ("text", "k"), "topic": ("text", "k"),
    "name": ("text", "f"), "step": ("text", "2"), "parent_step": ("text", "2"), "start_path": ("text", "1"),
    "executor_id": ("text", "me"), "sender_ids": ("text", "[]"), "most": ("int4", 10), "start": ("int4", 0), "after": ("int4", 0),
    "write_seq": ("int4", 5), "written": ("int4", -1), "is_patient": ("bool", True), "index": ("int8", 1),
    "ids": ("json", None), "statuses": ("json", None), "names": ("json", None), "versions": ("json", None),
    "batch": ("json", "[1]"), "kind": ("text", "end"),
    "unseen": ("json", "[]"), "streams": ("json", '[[0, "w1", "k", 0]]'),
    "waits": ("json", '[{"kind":"topic","key":"k"}]'),
}  # fmt: skip

DEFAULTS: dict[str, Any] = {
    "text": None, "json": "1", "bytea": b"d", "bool": None, "int4": None, "int8": 1, "float8": 0.0, "timestamptz": None,
}  # fmt: skip

IDS = {"id", "workflow_id", "sender_id", "destination_id", "target_id", "parent_id"}


def argument(name: str, column: str, kind: str, number: int, about: int) -> Any:
    """An argument of the call with this number, which is about that workflow."""
    if kind == "uuid":
        is_known = name.startswith(("FIND", "REDELIVER")) and column == "id"
        return (
            UUID(hashlib.md5(str(about).encode()).hexdigest()) if is_known else uuid5(UUID(int=0), f"{column} {number}")
        )
    if (column, kind) == ("id", "text") and name.startswith("START"):
        return f"new{number if name.startswith('START (') else about}"
    if column in IDS and kind == "text" and not name.startswith(("LIST (", "LIST_NEWEST (", "COUNT_WORKFLOWS (")):
        return f"w{about}"
    if column == "fork_id":
        return f"fork{number}"
    if column == "number":
        return 0 if name.startswith("PAGE_OF_STEPS") else number
    if column == "status" and name.startswith("FINISH"):
        return "SUCCESS"
    fixed = FIXED.get(column)
    return fixed[1] if fixed is not None and fixed[0] == kind else DEFAULTS[kind]


async def answered(connection: Any, name: str, abouts: list[int]) -> list[int] | None:
    """The numbers in the answer of a batch; ``None`` when the batch is refused."""
    sql = STATEMENTS[name]
    rows = ROWS_OF_CALLS.search(sql)
    assert rows is not None
    prepared = await connection.prepare(sql)
    kinds = [parameter.name.removesuffix("[]") for parameter in prepared.get_parameters()]
    columns = list(zip(["n", *rows[1].split(", ")], kinds, strict=False))  # an index is no parameter
    calls = list(zip(NUMBERS, abouts, strict=True))
    arguments = [[argument(name, *column, *call) for call in calls] for column in columns[1:]]
    transaction = connection.transaction()
    await transaction.start()
    try:
        return sorted({record["n"] for record in await prepared.fetch(NUMBERS, *arguments)})
    except (asyncpg.IntegrityConstraintViolationError, asyncpg.CardinalityViolationError):
        return None  # its calls are then repeated one by one
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("abouts", [NUMBERS, [4, 4, 4]], ids=["three workflows", "one workflow"])
async def test_m7_every_call_of_a_batch_is_answered_under_its_own_number(abouts: list[int], database_url: str) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    found: dict[str, list[list[int] | None]] = {name: [] for name in STATEMENTS}
    for status in ("PENDING", "DELAYED", "SUCCESS", "CANCELLED", "REPLAY_MISMATCH"):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(SETTING, status, NUMBERS)
        for rows in ROWS:
            await connection.execute(rows, NUMBERS)
        for name in STATEMENTS:
            found[name].append(await answered(connection, name, abouts))
        await transaction.rollback()
    await connection.close()
    assert len(found) >= 50
    odd = {name: seen for name, seen in found.items() if any(each not in (None, [], NUMBERS) for each in seen)}
    once = (
        {} if abouts == NUMBERS else {"DELETE (any)": [[], [], [4], [4], []]}
    )  # only one of them has deleted the workflow
    assert odd == once, "some calls of a batch have no answer"
    silent = {name: seen for name, seen in found.items() if NUMBERS not in seen and None not in seen}
    assert silent.keys() == {"EXPIRE (any)", *once}, (
        "of those that were executed, one alone answers only what it has changed"
    )
