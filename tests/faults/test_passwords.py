"""Passwords that a function makes, and those of the environment: each new connection has the present one (D4, D5)."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DatabaseUnavailableError, DBOSClient
from dbos_async._database import passwords
from dbos_async._database.passwords import PasswordError, PasswordSource
from tests.support.eventually import eventually
from tests.support.load import load
from tests.support.postgres import SMALL, Server

pytestmark = pytest.mark.usefixtures("quiet")

HBA = b"""
local all all trust
host all app 127.0.0.1/32 scram-sha-256
host all postgres 127.0.0.1/32 trust
"""

TERMINATE = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'app'"


@pytest.fixture(scope="module")
def guarded_server(programs: None) -> Iterator[Server]:
    """A server that takes the user ``app`` with a password alone."""
    server = Server(*SMALL, tcp=True)

    async def create() -> None:
        await server.create()
        server.write("pg_hba.conf", HBA)
        await server.execute("select pg_reload_conf()", "create role app login superuser password 'first'")

    try:
        asyncio.run(create())
        yield server
    finally:
        asyncio.run(server.remove())


class Vault:
    """Has the password of the user ``app``, and changes it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.password = ""
        self.asked = 0
        self.fails = False
        self.loops: set[object] = set()

    async def rotate(self) -> None:
        """Change the password, and end every connection that was made with the old one."""
        new = f"secret_{uuid4().hex}"
        await self._server.execute(f"alter role app password '{new}'")
        self.password = new
        await self._server.execute(TERMINATE)

    def token(self) -> str:
        """The present password."""
        self.asked += 1
        if self.fails:
            raise LookupError(f"no token like {self.password}")
        return self.password

    async def token_async(self) -> str:
        """The same, of a coroutine function."""
        self.loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return self.token()


@pytest.fixture
async def vault(guarded_server: Server) -> Vault:
    vault = Vault(guarded_server)
    await vault.rotate()
    return vault


@pytest.fixture
def url(guarded_server: Server) -> str:
    return guarded_server.url.replace("postgres@", "app@")


@DBOS.transaction(name="who is connected")
async def who(connection: Any) -> str:
    return str(await connection.fetchval("select current_user"))


@pytest.mark.parametrize("kind", ["plain", "async", "returns a coroutine", "partial"])
async def test_d4_every_new_connection_has_the_present_password(
    url: str, vault: Vault, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    kinds: dict[str, Callable[[], Any]] = {
        "plain": vault.token, "async": vault.token_async, "returns a coroutine": lambda: vault.token_async(),  # noqa: PLW0108
        "partial": functools.partial(vault.token_async),
    }  # fmt: skip
    make = kinds[kind]
    caplog.set_level(logging.DEBUG, "dbos_async")
    wrong = url.replace("app@", "app:wrong@")  # the function comes first
    async with DBOS(wrong, password=make, listen_url=url), DBOSClient(url, password=make):
        for _ in range(2):
            before = vault.asked
            await load(10, vault.rotate)
            assert await who() == "app"
            assert vault.asked >= before + 4, "the pool, the listeners, the lease, the transaction"

        async def is_well() -> bool:
            return (await DBOS.health()).ok

        await eventually(is_well, "the lease has a connection again")
    assert vault.loops <= {asyncio.get_running_loop()}, (
        "the function's own event loop, also for the thread of the lease"
    )
    assert "secret_" not in caplog.text


async def nothing() -> Any: ...


async def never() -> str:
    await asyncio.Event().wait()
    return ""


def _raise() -> str:
    raise LookupError("no such thing as hunter2")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: None, "must return a str and has returned NoneType"),
        (nothing, "must return a str and has returned NoneType"),
        (lambda: b"hunter2", "must return a str and has returned bytes"),
        (lambda: "", "must return a password and has returned an empty str"),
        (lambda: "hunter2\0", "has returned a NUL character or a lone surrogate, which no password has"),
        (lambda: "hunter2\ud800", "has returned a NUL character or a lone surrogate, which no password has"),
        (_raise, "has raised LookupError"),
        (lambda hunter2: hunter2, "has raised TypeError"),
        (never, "has not returned within 0.3 seconds"),
        (lambda: threading.Event().wait(2), "has not returned within 0.3 seconds"),
    ],
)
async def test_d5_a_function_that_makes_no_password_ends_a_launch_at_once(
    url: str, make: Any, says: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(passwords, "WITHIN_SECONDS", 0.3)
    for made in (DBOS(url, password=make), DBOSClient(url, password=make)):
        began = time.monotonic()
        with pytest.raises(ConfigurationError) as raised:
            async with made:
                pass
        assert time.monotonic() - began < 5
        assert (
            str(raised.value)
            == f"{url} cannot be used: the function given as password= {says}: call it by itself to see more."
        )
        assert (raised.value.__suppress_context__, raised.value.__cause__) == (True, None)
    assert "hunter2" not in caplog.text


async def test_d5_a_wrong_password_of_a_function_ends_a_launch_at_once(url: str, vault: Vault) -> None:
    with pytest.raises(
        ConfigurationError, match=r'authentication failed for user "app": check the user and the password\.$'
    ):
        async with DBOS(url, password=lambda: "wrong"):
            pass


async def test_d4_a_function_that_fails_for_a_while_is_an_outage(
    url: str, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        DBOS(url, password=vault.token),
        DBOSClient(url, password=vault.token_async, connect_timeout_seconds=1) as client,
    ):

        async def fail() -> None:
            vault.fails = True
            await vault.rotate()
            with pytest.raises(
                DatabaseUnavailableError, match="password= has raised LookupError.; nothing was committed"
            ):
                await client.list_workflows()
            vault.fails = False

        await load(10, fail)
        assert await who() == "app"
        await eventually(lambda: client._database.listener is not None and client._database.listener.is_listening)
    assert "secret_" not in caplog.text


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_function_that_hangs_keeps_nobody_from_leaving(url: str, vault: Vault, kind: str) -> None:
    hangs = threading.Event()
    is_free = threading.Event()

    def make() -> str:
        if hangs.is_set():
            is_free.wait()
        return vault.token()

    async def make_async() -> str:
        if hangs.is_set():
            await asyncio.Event().wait()
        return vault.token()

    try:
        async with DBOS(url, password=make if kind == "plain" else make_async) as dbos:
            hangs.set()
            await vault.rotate()
            await eventually(lambda: not dbos._runtime.database.listener.is_listening)  # type: ignore[union-attr]  # launched
            began = time.monotonic()
        assert time.monotonic() - began < 25, "as long as for a database that is away"
    finally:
        is_free.set()


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_w10_the_lease_is_kept_over_a_new_connection_while_the_event_loop_is_blocked(
    url: str, vault: Vault, guarded_server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "ELSEWHERE_WITHIN_SECONDS", 0.5)
    make: Callable[[], str | Awaitable[str]] = vault.token if kind == "plain" else vault.token_async
    async with DBOS(url, password=make) as dbos:
        thread = dbos._runtime.leases.thread
        if kind == "plain":
            await vault.rotate()  # while it is blocked, only a plain function has the new one

        def outlast() -> bool:
            asyncio.run(guarded_server.execute(TERMINATE))
            lost_at = time.monotonic()
            while (thread.alive_at or 0.0) < lost_at and time.monotonic() < lost_at + 10:
                time.sleep(0.05)
            return (thread.alive_at or 0.0) > lost_at

        kept: list[bool] = []
        other = threading.Thread(target=lambda: kept.append(outlast()))
        other.start()
        other.join()  # this blocks the event loop
        assert kept == [True]
    assert vault.loops <= {asyncio.get_running_loop()}


async def test_calls_at_the_same_time_share_one_answer() -> None:
    asked = 0
    goes_on = asyncio.Event()

    async def make() -> str:
        nonlocal asked
        asked += 1
        await goes_on.wait()
        return f"p{asked}"

    source = PasswordSource(make)
    calls = [asyncio.create_task(source()) for _ in range(3)]
    await eventually(lambda: asked == 1)
    calls[0].cancel()
    await asyncio.wait([calls[0]])
    goes_on.set()
    assert await asyncio.gather(*calls[1:]) == ["p1", "p1"], "whoever leaves takes it from nobody"
    assert await source() == "p2"


async def test_another_thread_asks_in_the_event_loop_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "ELSEWHERE_WITHIN_SECONDS", 0.3)
    loops = []

    async def make() -> str:
        loops.append(asyncio.get_running_loop())
        return f"p{len(loops)}"

    source = PasswordSource(make)

    async def ask() -> str:
        return await source()

    def blocked() -> list[str]:
        found: list[str] = []

        def elsewhere() -> None:
            try:
                found.append(asyncio.run(ask()))
            except PasswordError as error:
                found.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return found

    assert blocked() == ["the function given as password= has not returned within 0.3 seconds"]
    last = await asyncio.to_thread(lambda: asyncio.run(ask()))
    assert blocked() == [last], "it may still be valid"
    assert set(loops) == {asyncio.get_running_loop()}


def test_a_program_that_has_ended_makes_no_password() -> None:
    async def make() -> str:
        return "p"

    async def source() -> PasswordSource:
        return PasswordSource(make)

    made = asyncio.run(source())

    async def ask() -> str:
        return await made()

    with pytest.raises(PasswordError, match="has raised RuntimeError"):
        asyncio.run(ask())


async def test_without_any_password_the_server_says_so(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*password.*: check the user and the password\.$"):
        async with DBOSClient(url):
            pass
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(url)
