"""Defaults of a role or a database: none changes what the library does (D7)."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient, SetWorkflowID
from dbos_async._database import defaults
from tests.support.databases import execute, new_database
from tests.support.examined import new_role

HOSTILE = {
    "standard_conforming_strings": "off", "backslash_quote": "off", "escape_string_warning": "off", "bytea_output": "escape",
    "datestyle": "German, DMY", "intervalstyle": "sql_standard", "timezone": "Asia/Kathmandu", "search_path": "nowhere",
    "row_security": "off", "extra_float_digits": "-15", "session_replication_role": "replica", "array_nulls": "off",
    "transform_null_equals": "on", "xmlbinary": "hex", "quote_all_identifiers": "on", "client_encoding": "LATIN1",
    "client_min_messages": "debug1", "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
    "idle_in_transaction_session_timeout": "1s", "statement_timeout": "20s", "lock_timeout": "5s", "synchronous_commit": "off",
    "plan_cache_mode": "force_custom_plan", "enable_indexscan": "off", "enable_nestloop": "off", "jit": "on", "jit_above_cost": "0",
    "work_mem": "64kB", "default_toast_compression": "pglz", "constraint_exclusion": "on", "check_function_bodies": "off",
}  # fmt: skip

FAILED_WITH = r"a\b' \\ ü"
"""What an unquoted backslash would change."""


@DBOS.step(name="hostile step")
async def fail(text: str) -> None:
    """Raises this."""
    raise ValueError(text)


@DBOS.transaction(name="hostile transaction")
async def level(connection: Any, text: str) -> str:
    """Sends in the session of a user."""
    await DBOS.send("hostile", text, FAILED_WITH)
    return str(await connection.fetchval("show transaction_isolation"))


@DBOS.workflow(name="hostile talk")
async def talk() -> list[Any]:
    """Receives, says, writes, and fails, with names that have backslashes."""
    got = [await DBOS.recv(FAILED_WITH, 20)]
    envelope = await DBOS.recv_envelope(FAILED_WITH, 20)
    assert envelope is not None
    await DBOS.set_event(FAILED_WITH, got[0])
    await DBOS.write_stream(FAILED_WITH, 1.1)
    await DBOS.close_stream(FAILED_WITH)
    try:
        await fail(FAILED_WITH)
    except ValueError as error:
        got.append(str(error))
    got += [
        envelope.payload,
        str(envelope.sent_at.utcoffset()),
        await level(FAILED_WITH),
        await DBOS.recv(FAILED_WITH, 20),
    ]
    return [*got, await DBOS.recv("never", 0.1)]


async def converse(url: str, mine: Any) -> None:
    async with DBOS(url), DBOSClient(url) as client:
        with SetWorkflowID("hostile"):
            handle = await DBOS.start_workflow(talk)
        await client.send("hostile", "ä", FAILED_WITH, idempotency_key=FAILED_WITH)
        await client.send("hostile", "again", FAILED_WITH, idempotency_key=FAILED_WITH)
        async with mine.transaction():
            await client.send("hostile", 2.5, FAILED_WITH, connection=mine)
        assert [value async for value in client.read_stream("hostile", FAILED_WITH)] == [1.1]
        assert await handle.get_result() == ["ä", FAILED_WITH, 2.5, "0:00:00", "read committed", FAILED_WITH, None]
        assert await client.get_event("hostile", FAILED_WITH) == "ä"
        (status,) = await client.list_workflows(id_prefix="host")
        assert status.status == "SUCCESS"
        assert len(await client.list_messages("hostile", limit=2)) == 2
        assert (await client.purge(older_than=0)).count == 1
        await client.start_workflow("hostile talk")
        assert await client.count_workflows(status="PENDING")


@pytest.mark.direct("behind a pooler a stricter default is refused with the remedy")
@pytest.mark.parametrize("of", ["database", "role"])
async def test_d7_defaults_of_a_role_or_a_database_harm_nothing(of: str, server_url: str) -> None:
    """Also while the tables are made."""
    async with new_database(server_url, f"hostile_{of}") as url:
        name = urlsplit(url).path[1:]
        async with new_role(url) as (role, role_url):
            await execute(url, f'grant create on database "{name}" to {role}', f"alter role {role} superuser")
            owner = f'database "{name}"' if of == "database" else f"role {role}"
            await execute(url, *(f"alter {owner} set {setting} = '{value}'" if setting != "datestyle" and setting != "search_path"
                                 else f"alter {owner} set {setting} = {value}" for setting, value in HOSTILE.items()))  # fmt: skip
            mine = await asyncpg.connect(role_url)
            assert await mine.fetchval("show standard_conforming_strings") == "off"
            await converse(role_url, mine)
            await mine.close()


@pytest.fixture
async def strict(database_url: str, connection: Any) -> str:
    """A database whose sessions are serializable unless they say otherwise."""
    name = urlsplit(database_url).path[1:]
    await connection.execute(f"alter database \"{name}\" set default_transaction_isolation = 'serializable'")
    return database_url


async def test_d7_a_session_that_keeps_a_stricter_level_is_refused_with_the_remedy(strict: str) -> None:
    """As behind a pooler that drops what a client sets."""
    connection = await asyncpg.connect(strict)
    with pytest.raises(
        ConfigurationError, match=r"have default_transaction_isolation = 'serializable', and .* alter role … set"
    ):
        await defaults.check(connection)
    await connection.execute("set default_transaction_isolation = 'read committed'")
    await defaults.check(connection)
    await connection.close()


@pytest.mark.direct("behind a pooler a stricter default is refused with the remedy")
async def test_m4_d7_many_senders_and_one_receiver_in_a_serializable_database(strict: str) -> None:
    async with DBOS(strict), DBOSClient(strict) as client:
        handle = await DBOS.start_workflow(count, 300)
        await asyncio.gather(*(client.send(handle.workflow_id, n) for n in range(300)))
        assert sorted(await asyncio.wait_for(handle.get_result(), 20)) == list(range(300))


@DBOS.workflow(name="hostile count")
async def count(most: int) -> list[int]:
    """What it is sent."""
    return [await DBOS.recv() for _ in range(most)]
