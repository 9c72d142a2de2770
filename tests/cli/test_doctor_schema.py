"""The doctor and the schema: what is missing of it, what a role may not do, what vacuum has left, who holds locks."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from dbos_async._database import expected, migrations
from dbos_async._operations.doctor import examine, vacuum
from tests.support.databases import execute
from tests.support.eventually import eventually
from tests.support.examined import GRANTS, found_by, new_role, told

LAST = migrations.load()[-1]


async def test_no_schema(empty_database_url: str) -> None:
    (found,) = await found_by(empty_database_url, "schema")
    assert (found.level, "has no schema dbos_async" in found.says) == ("problem", True)
    assert "dbos-async migrate" in str(found.advice)


async def test_no_schema_and_no_right_to_make_it(empty_database_url: str) -> None:
    async with new_role(empty_database_url) as (role, url):
        (found,) = await found_by(url, "schema")
    assert f"grant create on database {urlsplit(empty_database_url).path[1:]} to {role};" in str(found.advice)


async def test_a_schema_that_is_behind(database_url: str) -> None:
    await execute(database_url, f"delete from dbos_async.migrations where number = {LAST.number}")
    (found,) = await found_by(database_url, "schema")
    assert (found.level, found.says) == ("problem", f"The schema is behind this release: {LAST.name} is missing.")
    assert "dbos-async migrate" in str(found.advice)


async def test_a_schema_that_is_behind_and_belongs_to_another_role(database_url: str) -> None:
    await execute(database_url, f"delete from dbos_async.migrations where number = {LAST.number}")
    async with new_role(database_url) as (role, url):
        await execute(database_url, *[each.format(role=role) for each in GRANTS])
        (found,) = await found_by(url, "schema")
    owner = await execute(database_url, "select session_user")
    assert f"migrate' as {owner}, who owns the schema" in str(found.advice)


async def test_a_schema_that_is_ahead(database_url: str) -> None:
    note = "insert into dbos_async.migrations (number, name, requires_library) values (9001, '9001_later', {})"
    await execute(database_url, note.format("null"))
    (found,) = await found_by(database_url, "schema")
    assert (found.level, "does not know 9001_later" in found.says) == ("warning", True)
    await execute(database_url, "update dbos_async.migrations set requires_library = '99.0' where number = 9001")
    (found,) = await found_by(database_url, "schema")
    assert (found.level, "9001_later requires 99.0" in found.says) == ("problem", True)
    assert "pip install 'dbos_async>=99.0'" in str(found.advice)


async def test_a_role_without_any_right(database_url: str) -> None:
    async with new_role(database_url) as (role, url):
        findings = await examine(url)
    advice = " ".join(str(finding.advice) for finding in findings if finding.check == "rights")
    assert f"grant usage on schema dbos_async to {role};" in advice
    assert f"grant select, insert, update, delete on dbos_async.workflows to {role};" in advice
    assert f"grant select on dbos_async.migrations to {role};" in advice
    assert f"grant usage on sequence dbos_async.message_seq to {role};" in advice
    assert "its s" not in told(findings), "the password is not shown"


async def test_the_grants_that_it_names_are_enough(database_url: str) -> None:
    async with new_role(database_url) as (_role, url):
        for finding in await found_by(url, "rights"):
            if finding.level == "problem":
                await execute(database_url, *str(finding.advice).rstrip(";").split("; "))
        assert await found_by(url, "rights") == []


async def test_single_rights_that_are_missing(database_url: str) -> None:
    async with new_role(database_url) as (role, url):
        await execute(
            database_url, *[each.format(role=role) for each in GRANTS],
            f"revoke update, delete on dbos_async.messages from {role}",
            f"revoke usage on sequence dbos_async.event_seq from {role}",
            "revoke execute on function dbos_async.announce(bytea) from public",
        )  # fmt: skip
        found = {finding.says: finding.advice for finding in await found_by(url, "rights")}
    assert found == {
        f"The role {role} lacks execute on function dbos_async.announce(bytea).":
            f"grant execute on function dbos_async.announce(bytea) to {role};",
        f"The role {role} lacks usage on sequence dbos_async.event_seq.":
            f"grant usage on sequence dbos_async.event_seq to {role};",
        f"The role {role} lacks update, delete on dbos_async.messages.":
            f"grant update, delete on dbos_async.messages to {role};",
    }  # fmt: skip


async def test_what_other_roles_do_is_hidden(database_url: str) -> None:
    async with new_role(database_url) as (role, url):
        await execute(database_url, *[each.format(role=role) for each in GRANTS])
        connection = await asyncpg.connect(database_url)
        try:
            (found,) = await found_by(url, "monitoring")
            assert (found.level, found.advice) == ("warning", f"grant pg_read_all_stats to {role};")
            await execute(database_url, f"grant pg_read_all_stats to {role}")
            assert await found_by(url, "monitoring") == []
        finally:
            await connection.close()


async def test_the_limit_of_a_role(database_url: str) -> None:
    async with new_role(database_url) as (role, url):
        await execute(database_url, f"alter role {role} connection limit 6")
        (found,) = await found_by(url, "connections")
    assert f"of 6 connections of the role {role} are used" in found.says
    assert f"alter role {role} connection limit -1;" in str(found.advice)


async def test_row_level_security(database_url: str) -> None:
    async with new_role(database_url) as (role, url):
        await execute(database_url, *[each.format(role=role) for each in GRANTS],
                      "alter table dbos_async.workflows enable row level security")  # fmt: skip
        (found,) = await found_by(url, "row security")
    assert (found.level, "workflows" in found.says) == ("problem", True)
    assert found.advice == "alter table dbos_async.workflows disable row level security;"


MISSING = {
    "an index": (
        "drop index dbos_async.workflows_unowned",
        "The index workflows_unowned is missing",
        "create index concurrently workflows_unowned on dbos_async.workflows (name, created_at) where status = 'PENDING'",
    ),
    "a primary key": (
        "alter table dbos_async.steps drop constraint steps_pkey",
        "The index steps_pkey is missing",
        "alter table dbos_async.steps add primary key (workflow_id, branch, number);",
    ),
    "a function": (
        "drop function dbos_async.repeat_if",
        "The function repeat_if is missing",
        "Restore the schema from a backup",
    ),
    "a table": (
        "alter table dbos_async.delayed_messages rename to put_aside",
        "The table delayed_messages is missing",
        "who has removed or renamed it",
    ),
    "durability": (
        "alter table dbos_async.events set unlogged",
        "The table events is unlogged",
        "alter table dbos_async.events set logged;",
    ),
    "a valid index": (
        "update pg_index set indisvalid = false where indexrelid = 'dbos_async.messages_unreceived'::regclass",
        "The index messages_unreceived is invalid",
        "reindex index concurrently dbos_async.messages_unreceived;",
    ),
}
"""By what is missing: how it is taken away, what must be said, and what advised."""


@pytest.mark.parametrize("what", MISSING)
async def test_what_is_missing_of_the_schema_is_named(database_url: str, what: str) -> None:
    statement, says, advice = MISSING[what]
    await execute(database_url, statement)
    found = await found_by(database_url, "objects")
    (named,) = [each for each in found if each.says.startswith(says)]
    assert (named.level, advice in str(named.advice)) == ("problem", True), told(found)


async def test_the_advice_makes_every_index_again(database_url: str) -> None:
    indexes = [each for each in expected.expected(migrations.load()) if each.kind == "index"]
    assert len(indexes) >= 20
    definitions = "select json_object_agg(indexname, indexdef) from pg_indexes where schemaname = 'dbos_async'"
    before = await execute(database_url, definitions)
    for each in indexes:
        table = each.repair.partition("dbos_async.")[2].partition(" ")[0]
        gone = f"alter table dbos_async.{table} drop constraint {each.name}"
        await execute(database_url, gone if each.name.endswith("_pkey") else f"drop index dbos_async.{each.name}")
    for finding in await found_by(database_url, "objects"):
        await execute(database_url, str(finding.advice))
    assert await found_by(database_url, "objects") == []
    assert sorted(await execute(database_url, definitions)) == sorted(before)


async def test_what_others_have_added(database_url: str) -> None:
    await execute(
        database_url,
        "create table orders (id int, workflow_id text references dbos_async.workflows)",
        "create function audit() returns trigger language plpgsql as $$ begin return new; end $$",
        'create trigger "audit all" after insert on dbos_async.steps for each row execute function audit()',
    )
    key, trigger = await found_by(database_url, "additions")
    assert "'orders_workflow_id_fkey' of orders points to the table workflows" in key.says
    assert "The trigger 'audit all' on the table steps runs in every write" in trigger.says
    for found in (key, trigger):
        await execute(database_url, str(found.advice).partition(": ")[2])
    assert await found_by(database_url, "additions") == []


async def test_dead_rows(database_url: str, connection: Any) -> None:
    await connection.execute(
        "insert into dbos_async.servers select n::text from generate_series(1, 60000) as n; delete from dbos_async.servers"
    )
    await connection.execute("select pg_stat_force_next_flush()")
    dead = "select n_dead_tup > 50000 from pg_stat_all_tables where relid = 'dbos_async.servers'::regclass"
    await eventually(lambda: execute(database_url, dead), "the statistics are there")
    (found,) = await found_by(database_url, "dead rows")
    assert found.says == "The table servers has 60,000 dead rows beside 0 live ones, and was never vacuumed."
    assert "vacuum (analyze) dbos_async.servers;" in str(found.advice)


async def test_a_table_that_is_larger_than_its_rows(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vacuum, "BLOAT_BYTES", 1 << 20)
    await connection.execute(
        "insert into dbos_async.servers select repeat('x', 100) || n from generate_series(1, 20000) as n"
    )
    await connection.execute("delete from dbos_async.servers where incarnation not like '%99'")
    # The last rows keep the table from being cut.
    await connection.execute("vacuum (analyze, truncate off) dbos_async.servers")
    (found,) = await found_by(database_url, "dead rows")
    assert found.says.startswith("The table servers takes 3 MB, and its rows need about"), found.says
    assert "vacuum full dbos_async.servers" in str(found.advice)


async def test_old_rows_that_are_not_frozen(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "AGE_WARNING", 0)
    (found,) = await found_by(database_url, "wraparound")
    assert (found.level, "vacuum freeze" in str(found.advice)) == ("warning", True)


async def test_an_old_transaction(database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "OLD_TRANSACTION_SECONDS", 0.0)
    await connection.execute("set application_name = 'nightly report'; begin; select 1")
    pid, role = connection.get_server_pid(), await connection.fetchval("select session_user")
    (found,) = await found_by(database_url, "old transactions")
    assert found.says.startswith(
        f"Session {pid} (nightly report, role {role}, idle in transaction) has had a transaction open for"
    )
    assert f"select pg_terminate_backend({pid});" in str(found.advice)


async def test_a_lock_on_a_table(database_url: str, connection: Any) -> None:
    await connection.execute("begin; lock table dbos_async.workflows in share mode")
    pid, role = connection.get_server_pid(), await connection.fetchval("select session_user")
    (found,) = await found_by(database_url, "locks")
    assert f"Session {pid} (a program without a name, role {role}, idle in transaction) holds a ShareLock" in found.says
    assert f"select pg_terminate_backend({pid});" in str(found.advice)


async def test_a_table_that_is_locked_stops_no_other_check(database_url: str, connection: Any) -> None:
    await connection.execute("begin; lock table dbos_async.messages in access exclusive mode")
    findings = await examine(database_url)
    said = {finding.check: finding for finding in findings}
    assert "AccessExclusiveLock on the table messages" in said["locks"].says
    assert "could not be looked at: canceling statement due to lock timeout" in said["rejected"].says
    assert said["parked"].level == said["executors"].level == "ok"


async def test_a_check_that_fails_stops_no_other(database_url: str) -> None:
    await execute(database_url, "alter table dbos_async.messages rename column rejected to put_aside")
    said = {finding.check: finding for finding in await examine(database_url)}
    assert said["rejected"].says == 'This could not be looked at: column "rejected" does not exist.'
    assert said["sequences"].level == "ok"


async def test_a_queue_of_notifications_that_fills(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("listen filled")
    await connection.execute("begin; select 1")
    sent = f"select count(pg_notify('filled', '{'x' * 7000}' || n)) from generate_series(1, 50) as n"
    await execute(database_url, sent)
    monkeypatch.setattr(vacuum, "QUEUE_WARNING", 1e-9)
    (found,) = await found_by(database_url, "notification queue")
    assert found.level == "warning"
    assert "when it is full, nothing that notifies is committed" in found.says
    assert "pg_terminate_backend" in str(found.advice)


async def test_names_that_others_chose_cannot_forge_lines(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vacuum, "OLD_TRANSACTION_SECONDS", 0.0)
    name = f"w{uuid4().hex}\x1b[31m\nproblem all is lost"
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "insert into dbos_async.workflows (id, name, input, start_id, attempt, status, ended_at) "
        "values ($1, 'f', '{}', gen_random_uuid(), 1, 'REPLAY_MISMATCH', null)", name,
    )  # fmt: skip
    await connection.close()
    (found,) = await found_by(database_url, "parked")
    assert found.says.isprintable()
    assert "\\n" in found.says
