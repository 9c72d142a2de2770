"""A database that refuses, restarts, hangs up, or says nothing any more (D4): it costs time, and never data."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient, SendMessage, SetWorkflowID
from dbos_async._database.batches import Batches
from dbos_async._database.connections import Postgres
from dbos_async._database.sql import parse
from dbos_async._database.urls import Host, hosts_of
from dbos_async._database.wakeups import Wakeups
from tests.conftest import Connect, with_database
from tests.eventually import eventually
from tests.proxy import Proxy
from tests.servers import Server, needs_own_servers, quick, quiet

__all__ = ["quick", "quiet"]

SLOW = parse("test_faults", "-- name: SLOW (value float8)\nselect n, pg_sleep(value) from :rows").statement(
    "SLOW", parallelism=1
)
OURS = "from pg_stat_activity where datname = current_database() and application_name = 'dbos_async'"
TERMINATE_ALL = f"select count(pg_terminate_backend(pid)) {OURS}"
BLOCKED = f"select count(*) {OURS} and wait_event_type = 'Lock'"

_ran: Counter[tuple[str | None, int]] = Counter()


@DBOS.step()
async def counted(n: int) -> int:
    _ran[DBOS.workflow_id, n] += 1
    return n


@DBOS.workflow()
async def steps_running() -> list[int]:
    """Receives, steps, writes and says what it has, until it is told to end."""
    seen: list[int] = []
    while (n := await DBOS.recv(None, None)) != "end":
        seen.append(n)
        await DBOS.write_stream("s", await counted(n))
        await DBOS.set_event("e", n)
    return seen


@DBOS.workflow()
async def tell(destination_id: str) -> str:
    """Sends as soon as it is told to."""
    await DBOS.recv("go", None)
    await DBOS.send(destination_id, "told", "guarded")
    return "told"


@DBOS.workflow()
async def run_once(n: int) -> int:
    return await counted(n)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server that may be restarted and reconfigured."""
    server = Server()
    asyncio.run(server.create())
    yield server
    asyncio.run(server.remove())


@pytest.fixture
async def own_url(own_server: Server) -> AsyncIterator[str]:
    """A fresh database of it."""
    name = f"own_{uuid4().hex[:12]}"
    await own_server.execute(f"create database {name}")
    yield with_database(own_server.url, name)
    await own_server.execute(f"drop database {name} with (force)")


async def load(count: int, trouble: Callable[[], Awaitable[object]]) -> None:
    """So many busy workflows, messages all the time while there is trouble, and every promise looked at afterwards."""
    _ran.clear()
    handles = await asyncio.gather(*(DBOS.start_workflow(steps_running) for _ in range(count)))
    ids = [handle.workflow_id for handle in handles]
    troubling = asyncio.ensure_future(trouble())
    rounds = 0
    while not troubling.done() or rounds < 3:
        await asyncio.gather(*(DBOS.send(workflow_id, rounds) for workflow_id in ids))
        rounds += 1
        await asyncio.sleep(0.01)
    await troubling
    await asyncio.gather(*(DBOS.send(workflow_id, "end") for workflow_id in ids))
    for handle in handles:
        assert await handle.get_result() == list(range(rounds))
        assert [n async for n in DBOS.read_stream(handle.workflow_id, "s")] == list(range(rounds))
        assert await DBOS.get_event(handle.workflow_id, "e") == rounds - 1
        status = await handle.get_status()
        assert (status.attempt, status.recoveries) == (1, 0), "nobody was taken for dead"
    assert set(_ran.values()) == {1}, "no step runs twice"
    assert len(_ran) == count * rounds


async def guard(connection: Any, code: str) -> None:
    """Let the database refuse messages of one topic with this error, and count how often it did."""
    await connection.execute(
        "create sequence refusals; "
        "create function refuse() returns trigger language plpgsql as $$ begin "
        f"perform nextval('refusals'); raise exception 'refused on purpose' using errcode = '{code}'; end $$; "
        "create trigger refuse before insert on dbos_async.messages for each row "
        "when (new.topic = 'guarded') execute function refuse()"
    )


async def refused(connection: Any, times: int) -> bool:
    return bool(await connection.fetchval("select is_called and last_value >= $1 from refusals", times))


CODES = {
    "25006": "read-only", "53100": "disk full", "53200": "out of memory", "53400": "a limit", "55P03": "lock timeout",
    "57014": "canceled", "58030": "input or output failed",
}  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=CODES.get)
async def test_d4_what_postgres_reports_as_impossible_now_is_waited_for(
    database_url: str, connection: Any, code: str
) -> None:
    await guard(connection, code)
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=0.5) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(tell, "w")
        await DBOS.send("w", None, "go")
        with pytest.raises(DatabaseUnavailableError, match="refused on purpose.*nothing was committed") as raised:
            await client.send("w", "outside", "guarded")
        assert not raised.value.may_have_committed
        await eventually(lambda: refused(connection, 4))
        assert (await handle.get_status()).status == "PENDING"
        await connection.execute("drop trigger refuse on dbos_async.messages")
        assert await handle.get_result() == "told"
        await client.send("w", "again", "guarded")
    sent = "select array_agg(payload #>> '{}' order by seq) from dbos_async.messages where topic = 'guarded'"
    assert await connection.fetchval(sent) == ["told", "again"]


@needs_own_servers
async def test_d4_a_database_that_is_read_only_for_a_while_is_waited_for(own_server: Server, own_url: str) -> None:
    async with DBOS(own_url), DBOSClient(own_url, connect_timeout_seconds=1.5) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(tell, "w")
        reader = await asyncpg.connect(own_url)
        await reader.execute("alter system set default_transaction_read_only = on; ")
        await reader.execute("select pg_reload_conf()")
        await eventually(lambda: _is_on(reader, "default_transaction_read_only"))
        backends = {row["pid"] for row in await reader.fetch(f"select pid {OURS}")}
        with pytest.raises(DatabaseUnavailableError) as raised:
            await client.send("w", None, "go")
        assert not raised.value.may_have_committed, "the server said so"
        await own_server.execute("alter system reset default_transaction_read_only", "select pg_reload_conf()")
        await client.send("w", None, "go")
        assert await handle.get_result() == "told"
        assert {row["pid"] for row in await reader.fetch(f"select pid {OURS}")} - backends, "it has connected anew"
        assert await reader.fetchval("select count(*) from dbos_async.messages") == 2
        await reader.close()


async def test_d4_a_statement_timeout_and_a_cancel_are_outlasted(
    database_url: str, connection: Any, connect: Connect
) -> None:
    locker = await connect()
    name = urlsplit(database_url).path[1:]
    await connection.execute(f"alter database {name} set statement_timeout = '300ms'")
    async with DBOS(database_url), DBOSClient(database_url, connect_timeout_seconds=0.5) as client:
        with SetWorkflowID("w"):
            handle = await DBOS.start_workflow(tell, "w")
        await DBOS.send("w", None, "go")
        async with locker.transaction():
            await locker.execute("lock table dbos_async.messages in access exclusive mode")
            with pytest.raises(DatabaseUnavailableError, match="statement timeout.*nothing was committed"):
                await client.send("w", "outside")
        assert await handle.get_result() == "told"
        await connection.execute(f"alter database {name} reset statement_timeout")
        await connection.execute(TERMINATE_ALL)
        async with locker.transaction():
            await locker.execute("lock table dbos_async.messages in access exclusive mode")
            sending = asyncio.create_task(DBOS.send("w", "canceled"))
            await eventually(lambda: connection.fetchval(BLOCKED))
            assert await connection.fetchval(
                f"select bool_or(pg_cancel_backend(pid)) {OURS} and wait_event_type = 'Lock'"
            )
            await eventually(lambda: connection.fetchval(f"{BLOCKED} and query_start > now() - interval '50 ms'"))
        await sending
    assert await connection.fetchval("select count(*) from dbos_async.messages where topic = ''") == 1


async def test_d4_a_batch_that_is_too_slow_for_a_statement_timeout_is_split(database_url: str, connection: Any) -> None:
    await connection.execute(f"alter database {urlsplit(database_url).path[1:]} set statement_timeout = '200ms'")
    postgres = Postgres(database_url)
    batches = Batches(postgres, Wakeups(), give_up_after_seconds=5)
    answers = await asyncio.gather(*(batches.call(SLOW, [(0.07,)], partition="") for _ in range(6)))
    assert len(answers) == 6
    await batches.close()
    await postgres.close()


async def test_d4_with_too_few_connections_those_that_there_are_do_all(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, url = await limited_role(connection, database_url, 3)
    too_many = 0
    connect = asyncpg.connect

    async def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal too_many
        try:
            return await connect(*args, **kwargs)
        except asyncpg.TooManyConnectionsError:
            too_many += 1
            raise

    monkeypatch.setattr(asyncpg, "connect", counting)
    try:
        async with DBOS(url, migrate=False):
            await load(20, lambda: asyncio.sleep(0.5))
            assert too_many
            await connection.execute(f"alter role {role} connection limit 0")
            with pytest.raises(DatabaseUnavailableError, match="too many connections.*nothing was committed"):
                async with DBOSClient(url, connect_timeout_seconds=2):
                    pass
            await load(20, lambda: asyncio.sleep(0.2))
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")


async def test_a_connection_that_comes_back_is_for_whoever_waits_longest(database_url: str, connection: Any) -> None:
    role, url = await limited_role(connection, database_url, 1)
    postgres = Postgres(url)
    turns: list[int] = []

    async def use(number: int) -> None:
        for _ in range(5):
            async with postgres.connection() as only:
                await only.execute("select pg_sleep(0.01)")
                turns.append(number)

    async with asyncio.timeout(10):
        await use(0)
        await asyncio.gather(*(use(number) for number in (1, 2, 3)))
    assert all(set(turns[5 + n : 8 + n]) == {1, 2, 3} for n in (3, 6, 9)), "in turn"
    await postgres.close()
    await connection.execute(f"drop owned by {role}")
    await connection.execute(f"drop role {role}")


async def test_d4_a_connection_on_its_way_to_who_waited_for_it_counts_as_one_that_will_come_back(
    database_url: str, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, url = await limited_role(connection, database_url, 1)
    postgres = Postgres(url)
    connect = asyncpg.connect
    refused: list[asyncio.Future[None]] = []

    async def connecting(*args: Any, **kwargs: Any) -> Any:
        try:
            return await connect(*args, **kwargs)
        except asyncpg.TooManyConnectionsError:
            refused.append(asyncio.get_running_loop().create_future())
            await refused[-1]
            raise

    async def use() -> int:
        async with postgres.connection() as only:
            backend: int = await only.fetchval("select pg_backend_pid()")
            return backend

    monkeypatch.setattr(asyncpg, "connect", connecting)
    async with asyncio.timeout(20):
        async with postgres.connection() as only:
            backend = only.get_server_pid()
            first, second = asyncio.create_task(use()), asyncio.create_task(use())
            await eventually(lambda: len(refused) == 2)
            refused[0].set_result(None)
            await asyncio.sleep(0)  # The first waits for the connection now …
        refused[1].set_result(
            None
        )  # … and has been given it, but not yet gone on, when the second hears that there is no other.
        assert [await first, await second] == [backend, backend]
    await postgres.close()
    await connection.execute(f"drop owned by {role}")
    await connection.execute(f"drop role {role}")


@pytest.mark.parametrize(
    ("statement", "stays"),
    [
        ("select 1 / 0", True),
        ("do $$ begin raise exception 'full' using errcode = '53100'; end $$", True),
        ("set statement_timeout = 1; select pg_sleep(1)", True),
        ("begin read only; create table t ()", False),
        ("select pg_terminate_backend(pg_backend_pid())", False),
    ],
)
async def test_d4_a_connection_is_used_again_if_its_error_leaves_it_usable(
    database_url: str, statement: str, stays: bool
) -> None:
    postgres = Postgres(database_url)
    backend = 0
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        async with postgres.connection() as used:
            backend = used.get_server_pid()
            await used.execute(statement)
    async with postgres.connection() as next_one:
        assert (next_one.get_server_pid() == backend) == stays
    await postgres.close()


async def test_d4_a_process_without_any_connection_waits_for_one(database_url: str, connection: Any) -> None:
    role, url = await limited_role(connection, database_url, 4)
    try:
        async with DBOS(url, migrate=False):
            handle = await DBOS.start_workflow(steps_running)
            await connection.execute(f"alter role {role} connection limit 0")

            async def has_none() -> bool:
                await connection.execute(TERMINATE_ALL)
                return not await connection.fetchval("select count(*) from pg_stat_activity where usename = $1", role)

            await eventually(has_none, "also those that were just being made are gone")
            sending = asyncio.create_task(DBOS.send(handle.workflow_id, "end"))
            await asyncio.sleep(0.3)
            assert not sending.done()
            await connection.execute(f"alter role {role} connection limit 4")
            await sending
            assert await handle.get_result() == []
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")


async def limited_role(connection: Any, url: str, limit: int) -> tuple[str, str]:
    """A role that may have only so many connections, and the URL for it."""
    role = f"role_{uuid4().hex[:12]}"
    await connection.execute(
        f"create role {role} login password 'secret' connection limit {limit}; "
        f"grant usage on schema dbos_async to {role}; grant all on all tables in schema dbos_async to {role}; "
        f"grant all on all sequences in schema dbos_async to {role}"
    )
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return role, urlunsplit(parts._replace(netloc=f"{role}:secret@{host}"))


async def test_d4_terminated_connections_cost_time_and_nothing_else(database_url: str, connection: Any) -> None:
    terminated = 0

    async def terminate() -> None:
        nonlocal terminated
        for _ in range(15):
            terminated += await connection.fetchval(TERMINATE_ALL)
            await asyncio.sleep(0.07)

    async with DBOS(database_url):
        await load(50, terminate)
    assert terminated >= 30


@needs_own_servers
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_d4_a_restart_of_the_server_costs_time_and_nothing_else(
    own_server: Server, own_url: str, mode: str
) -> None:
    async def restart() -> None:
        for _ in range(2):
            await asyncio.sleep(0.2)
            await own_server.restart(mode)
            await asyncio.sleep(0.5)

    async with DBOS(own_url):
        await load(50, restart)


@needs_own_servers
async def test_d4_a_password_or_name_that_was_right_once_may_be_right_again(own_server: Server, own_url: str) -> None:
    hba = own_server.data / "pg_hba.conf"
    before = hba.read_text()
    if not before.startswith("host all app"):
        hba.write_text(f"host all app 127.0.0.1/32 scram-sha-256\n{before}")
    name = urlsplit(own_url).path[1:]
    await own_server.execute(
        "drop role if exists app", "create role app superuser login password 'right'", "select pg_reload_conf()"
    )
    url = own_url.replace("postgres@", "app:right@")
    await eventually(lambda: _is_rejected(own_url.replace("postgres@", "app:wrung@")))
    with pytest.raises(ConfigurationError, match="password authentication failed") as wrong:
        async with DBOSClient(own_url.replace("postgres@", "app:wrung@")):
            pass
    assert "wrung" not in str(wrong.value)
    with pytest.raises(ConfigurationError, match="no_such_database"):
        async with DBOSClient(with_database(url, "no_such_database")):
            pass
    terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'dbos_async'"
    async with DBOS(url), DBOSClient(url, connect_timeout_seconds=1.2) as client:
        handle = await DBOS.start_workflow(steps_running)
        for out, why, back in [
            (f"alter role app password '{uuid4()}'", "password authentication failed", "alter role app password 'right'"),
            (f"alter database {name} allow_connections false", "not currently accepting",
             f"alter database {name} allow_connections true"),
        ]:  # fmt: skip
            await own_server.execute(out, terminate)
            with pytest.raises(DatabaseUnavailableError, match=why) as raised:
                await client.send(handle.workflow_id, 0)
            assert "right" not in str(raised.value)
            await own_server.execute(back)
            await client.send(handle.workflow_id, 1)
        await client.send(handle.workflow_id, "end")
        assert [n for n in await handle.get_result() if n == 1] == [1, 1]


async def _is_rejected(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except asyncpg.InvalidPasswordError:
        return True
    return False


async def _is_on(connection: Any, setting: str) -> bool:
    return bool(await connection.fetchval("select current_setting($1) = 'on'", setting))


ROWS = """
    insert into dbos_async.workflows (id, name, input, start_id, status, attempt)
    select id, 'unknown here', '[]', gen_random_uuid(), status, 3
    from (values ('waiting-17', 'PENDING'), ('parked-17', 'REPLAY_MISMATCH')) as w(id, status)
"""


@pytest.mark.parametrize(
    ("verb", "done"),
    [
        ("send", "select count(*) from dbos_async.messages"),
        ("send_bulk", "select count(*) / 3.0 from dbos_async.messages"),
        ("start_workflow", "select count(*) from dbos_async.workflows where name = 'started-17'"),
        (
            "cancel_workflow",
            "select attempt - 3 from dbos_async.workflows where id = 'waiting-17' and status = 'CANCELLED'",
        ),
        (
            "resume_workflow",
            "select attempt - 3 from dbos_async.workflows where id = 'parked-17' and status = 'PENDING'",
        ),
    ],
)
async def test_d4_m1_an_act_whose_answer_is_lost_is_done_once(
    database_url: str, connection: Any, verb: str, done: str
) -> None:
    await connection.execute(ROWS)
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url) as client:
        write_seq: dict[str, Callable[[], Awaitable[Any]]] = {
            "send": lambda: client.send("waiting-17", 1),
            "send_bulk": lambda: client.send_bulk([SendMessage("waiting-17", n) for n in range(3)]),
            "start_workflow": lambda: client.start_workflow("started-17"),
            "cancel_workflow": lambda: client.cancel_workflow("waiting-17"),
            "resume_workflow": lambda: client.resume_workflow("parked-17"),
        }
        proxy.mute(b"-17")
        tasks_inside = asyncio.ensure_future(write_seq[verb]())
        await eventually(lambda: connection.fetchval(f"select ({done}) = 1"), f"{verb} is committed")
        assert not tasks_inside.done()
        proxy.heal()
        proxy.cut()
        await tasks_inside
        assert await connection.fetchval(done) == 1, f"{verb} was repeated and has changed nothing"


async def test_d4_a_start_whose_answer_is_lost_runs_once(database_url: str, connection: Any) -> None:
    _ran.clear()
    async with Proxy(database_url) as proxy, DBOS(proxy.url):
        await (await DBOS.start_workflow(run_once, 1)).get_result()
        proxy.mute(b"424242")
        starting = asyncio.ensure_future(DBOS.start_workflow(run_once, 424242))
        await eventually(lambda: connection.fetchval("select count(*) = 2 from dbos_async.workflows"))
        assert not starting.done()
        proxy.heal()
        proxy.cut()
        handle = await starting
        assert await handle.get_result() == 424242
        assert (await handle.get_status()).attempt == 1
    assert list(_ran.values()) == [1, 1]


@pytest.mark.usefixtures("quick")
async def test_d4_who_gives_up_is_told_the_truth_about_the_commit(database_url: str, connection: Any) -> None:
    await connection.execute(ROWS)
    async with Proxy(database_url) as proxy, DBOSClient(proxy.url, connect_timeout_seconds=2) as client:
        await client.send("waiting-17", 1)
        proxy.mute(b"waiting-17")
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="may or may not have been committed"):
            await client.send("waiting-17", 2)
        assert time.monotonic() - began < 10, "also while a statement hangs"
        assert await connection.fetchval("select count(*) from dbos_async.messages") == 2, "it was"
        proxy.freeze()
        proxy.cut()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="nothing was committed"):
            await client.send("waiting-17", 3)
        assert time.monotonic() - began < 10, "also while an attempt to connect hangs"
        proxy.heal()
        await client.send("waiting-17", 4)
        sent = "select array_agg(payload::text order by seq) from dbos_async.messages"
        assert await connection.fetchval(sent) == ["1", "2", "4"]


async def test_d4_a_call_gives_up_in_time_also_behind_one_that_never_does(database_url: str, connection: Any) -> None:
    postgres = Postgres("postgresql://nobody@127.0.0.1:1/nothing")
    batches = Batches(postgres, Wakeups(), give_up_after_seconds=0.3)
    retry_forever = batches.call(SLOW, [(0.0,)], partition="", retry_forever=True)
    await asyncio.sleep(0.05)
    with pytest.raises(DatabaseUnavailableError, match="nothing was committed"):
        await asyncio.wait_for(batches.call(SLOW, [(0.0,)], partition=""), 2)
    assert not retry_forever.done()
    retry_forever.cancel()
    await batches.close()
    await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_call_gives_up_in_time_also_while_an_attempt_to_connect_hangs(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        proxy.freeze()
        postgres = Postgres(proxy.url)
        batches = Batches(postgres, Wakeups(), give_up_after_seconds=1.7)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError, match="no connection within 1 seconds.*nothing was committed"):
            await batches.call(SLOW, [(0.0,)], partition="")
        # The attempts take 0.5, 1 and 2 seconds: it does not wait for the end of the third.
        assert time.monotonic() - began < 10
        await batches.close()
        await postgres.close()


async def test_d4_connections_that_went_dead_without_a_word_are_noticed_in_seconds(
    database_url: str, connection: Any
) -> None:
    # With the seconds as they are: 5 until somebody asks, and 5 for the answer.
    async with Proxy(database_url) as proxy, DBOS(proxy.url), DBOSClient(database_url) as client:
        listening = await DBOS.start_workflow(steps_running)
        others = await asyncio.gather(*(DBOS.start_workflow(steps_running) for _ in range(50)))
        proxy.freeze()
        proxy.heal()
        began = time.monotonic()
        await client.send(listening.workflow_id, "end")
        await asyncio.gather(*(DBOS.send(other.workflow_id, "end") for other in others))
        assert await asyncio.gather(*(other.get_result() for other in (listening, *others))) == [[]] * 51
        assert time.monotonic() - began < 14
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 51


@pytest.mark.usefixtures("quick")
async def test_d4_of_connections_that_went_dead_together_only_one_costs_time(database_url: str) -> None:
    async with Proxy(database_url) as proxy:
        postgres = Postgres(proxy.url)
        batches = Batches(postgres, Wakeups())

        async def use() -> None:
            async with postgres.connection() as connection:
                await connection.execute("select pg_sleep(0.2)")

        await asyncio.gather(*(use() for _ in range(8)))
        assert proxy.accepted == 8
        proxy.freeze()
        proxy.heal()
        async with asyncio.timeout(5):
            await batches.call(SLOW, [(0.0,)], partition="")
        await batches.close()
        await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_slow_statement_is_not_taken_for_a_dead_one(database_url: str, connection: Any) -> None:
    async with Proxy(database_url) as proxy:
        postgres = Postgres(proxy.url)
        batches = Batches(postgres, Wakeups(), give_up_after_seconds=0.5)
        before = proxy.accepted
        await batches.call(SLOW, [(2.0,)], partition="")
        assert proxy.accepted - before >= 3, "it was asked about"
        assert batches.losses == 0
        await batches.close()
        await postgres.close()


@pytest.mark.usefixtures("quick")
async def test_d4_a_network_that_swallows_everything_for_a_while_is_outlasted(database_url: str) -> None:
    async with Proxy(database_url) as proxy, DBOS(proxy.url):

        async def trouble() -> None:
            await asyncio.sleep(0.1)
            proxy.freeze()
            await asyncio.sleep(2)
            proxy.heal()

        await load(50, trouble)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["frozen", "refused"])
async def test_d4_shutting_down_without_the_database_is_quick_and_quiet(database_url: str, fault: str) -> None:
    async with Proxy(database_url) as proxy:
        client = DBOSClient(proxy.url)
        await client.__aenter__()
        dbos = DBOS(proxy.url, drain_seconds=1)
        await dbos.__aenter__()
        handles = await asyncio.gather(*(DBOS.start_workflow(steps_running) for _ in range(50)))
        await asyncio.gather(*(client.send(handle.workflow_id, 1) for handle in handles))
        proxy.freeze()
        if fault == "refused":
            proxy.refuse()
            proxy.cut()
        sending = [asyncio.ensure_future(client.send(handle.workflow_id, 2)) for handle in handles]
        await asyncio.sleep(0.7)
        began = time.monotonic()
        await client.__aexit__(None, None, None)
        await dbos.__aexit__(None, None, None)
        assert time.monotonic() - began < 15
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        assert {type(outcome).__name__ for outcome in outcomes} == {"LaunchError"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("first", ["refuses", "swallows everything"])
async def test_d4_of_several_hosts_the_one_that_works_is_found(database_url: str, first: str) -> None:
    async with Proxy(database_url) as black_hole, Proxy(database_url) as proxy:
        black_hole.freeze()
        bad = "127.0.0.1:1" if first == "refuses" else black_hole.host
        url = proxy.url.replace(proxy.host, f"{bad},{proxy.host}")
        async with DBOS(url):
            await load(5, lambda: asyncio.sleep(0.1))
            seen = black_hole.accepted
            await load(5, lambda: asyncio.sleep(0.1))
            assert black_hole.accepted == seen, "the last good one is asked first"
        user, name = urlsplit(proxy.url).username or "", urlsplit(proxy.url).path
        hosts, ports = zip(*(host.split(":") for host in (bad, proxy.host)), strict=True)
        query = f"postgresql://{user}@{name}?host={','.join(hosts)}&port={','.join(ports)}"
        async with DBOSClient(query):
            pass


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@h1:5433,h2/db", [("h1", 5433), ("h2", 5432)]),
        ("postgresql://u:p@h1,h2/db?port=5433", [("h1", 5433), ("h2", 5433)]),
        ("postgresql://h1,[::1]:7/db", [("h1", 5432), ("::1", 7)]),
        ("postgresql:///db?host=/run/a,h2&port=1,2", [("/run/a", 1), ("h2", 2)]),
        ("postgresql://u:p,w@h1/db", []),
        ("postgresql://u:@/db?host=/run/a", []),
        ("postgresql://h1,/db", []),
        ("postgresql://h1:x,h2/db", []),
    ],
)
def test_the_hosts_of_a_url(url: str, hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(url) == [Host(*host) for host in hosts]


async def test_d4_one_of_several_hosts_may_be_an_ipv6_address(database_url: str) -> None:
    async with (
        Proxy(database_url) as proxy,
        DBOSClient(proxy.url.replace(proxy.host, f"[::1]:1,{proxy.host}")) as client,
    ):
        assert await client.list_workflows() == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se,cret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se/cret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se@cret@127.0.0.1:1,127.0.0.1:2/db",
        "postgresql://me:se:cret@127.0.0.1:1,127.0.0.1:x/db",
        "postgresql://127.0.0.1:1,me:secret/db",
        "postgresql:///db?host=127.0.0.1,127.0.0.1&port=1,2&password=secret&user=me",
    ],
)
async def test_d5_a_url_of_several_hosts_is_explained_without_its_password(url: str) -> None:
    with pytest.raises((ConfigurationError, DatabaseUnavailableError)) as raised:
        async with DBOSClient(url, connect_timeout_seconds=0.2):
            pass
    assert "cret" not in str(raised.value)
    assert "cret" not in repr(raised.value)
