"""Connecting: whether and how fast, to what server, and whether that one takes writes."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Final

import asyncpg

from dbos_async._database.outages import CONNECT_ERRORS
from dbos_async._database.probe import terminated_after
from dbos_async._database.remedies import remedy_for
from dbos_async._database.sql import load
from dbos_async._database.urls import Host, reason_of, shown_url, why_unusable
from dbos_async._operations.doctor.finding import Finding, ok, problem, warning
from dbos_async._operations.doctor.session import ANSWER_WITHIN_SECONDS, Connection, Session, fetch

with load(__name__) as sql:
    SEE_SERVER: Final = sql.statement("SEE_SERVER")
    SEE_CLOCK: Final = sql.statement("SEE_CLOCK")

OLDEST, NEWEST = 15, 18
"""The major versions of Postgres that every release is tested on."""

SLOW_CONNECT_SECONDS = 1.0
SLOW_ROUND_TRIP_SECONDS = 0.02
CLOCK_SECONDS = 2.0
ROUND_TRIPS: Final = 5

LISTEN_WITHIN_SECONDS = 3.0
SLOW_NOTIFICATION_SECONDS = 0.5
LISTEN_ADVICE: Final = (
    "Connect to the primary itself, or through a pooler in session mode, or pass listen=False to DBOS and DBOSClient, which "
    "then ask for changes every 20 to 500 ms. Until then every wait ends up to 30 s late."
)

UNUSABLE: Final = (*CONNECT_ERRORS, ValueError, OverflowError, ssl.SSLError)
"""What connecting to a URL can raise."""


SESSION_MODE: Final = (
    "Connect to Postgres itself, or use session mode: in PgBouncer pool_mode = session for this database, "
    "at Supabase port 5432 in the place of 6543, at Neon the host without '-pooler'."
)


async def connection(session: Session) -> list[Finding]:
    """Connect to every host of the URL. The one that takes writes is examined, else the first that answers."""
    found: list[Finding] = []
    usable: list[tuple[bool, Host | None, float, Connection]] = []
    several = len(session.hosts) > 1
    for host in session.hosts:
        began = time.monotonic()
        try:
            opened = await session.connect(host)
            seconds = time.monotonic() - began
            (server,) = await fetch(opened, SEE_SERVER)
        except UNUSABLE as error:
            if not several:
                return [problem(why_unusable(session.url, error, with_remedy=False), advice_for(error))]
            says = f"The host {host.name}:{host.port} of the URL cannot be used: {reason_of(error)}." if host else ""
            found.append(warning(says, advice_for(error)))
        else:
            usable.append((server["is_standby"], host, seconds, opened))
    if not usable:
        names = f"None of the {len(session.hosts)} hosts of {shown_url(session.url)} can be used."
        return [*found, problem(names, "Look at what is said of each host.")]
    _, chosen, seconds, opened = min(usable, key=lambda each: each[0])
    session.choose(chosen, opened)
    return [*found, await _speed(session, opened, seconds, several)]


async def _speed(session: Session, opened: Connection, connect_seconds: float, several: bool) -> Finding:
    times: list[float] = []
    with terminated_after(opened, ANSWER_WITHIN_SECONDS):
        for _ in range(ROUND_TRIPS):
            began = time.monotonic()
            await opened.execute("select 1")
            times.append(time.monotonic() - began)
    (server,) = await fetch(opened, SEE_SERVER)
    round_trip = min(times)
    host = session.hosts[0]
    where = f" to {host.name}:{host.port}" if several and host else ""
    kind = "a local socket" if server["is_local"] else "TLS" if server["is_encrypted"] else "no encryption"
    says = (
        f"Connecting to {shown_url(session.url)}{where} as {server['role']} takes {connect_seconds * 1000:.0f} ms, over {kind}; "
        f"a round trip takes {round_trip * 1000:.1f} ms."
    )
    if round_trip > SLOW_ROUND_TRIP_SECONDS:
        return warning(says, "Every step costs a round trip: run the executors near the database, in the same zone.")
    if connect_seconds > SLOW_CONNECT_SECONDS:
        return warning(says, "Look at the load of the server, the resolution of its name, and what is in between.")
    return ok(says)


def advice_for(error: BaseException) -> str | None:
    """Return what to do when connecting ends with this error."""
    if (advice := _of_the_url(error)) is not None:
        return advice
    if isinstance(error, asyncpg.InvalidPasswordError):
        return "Check the user and the password of the URL; 'alter role … password …' sets a new one."
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return "Check the user of the URL, and the line of pg_hba.conf that lets it connect to this database from this host."
    if isinstance(error, asyncpg.InvalidCatalogNameError):
        return "Name another database in the URL, or make it: create database … encoding 'UTF8' template template0."
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        return "Grant the role the right that is missing, such as: grant connect on database … to …;"
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return (
            "End connections that nobody needs, or raise the limit that it names (max_connections of the server, "
            "'connection limit' of the database or the role): each executor needs ten."
        )
    if isinstance(error, asyncpg.CannotConnectNowError):
        return "The server starts or stops: try again in a moment, and look into its log."
    if "statement pooling" in str(error):
        return SESSION_MODE
    if isinstance(error, TimeoutError):
        return (
            "Something takes the connection and does not answer: look at firewalls, proxies and the load of the server."
        )
    if isinstance(error, ssl.SSLError) or "SSL" in str(error):
        return "Check sslmode and the certificates that the URL names."
    if isinstance(error, asyncpg.QueryCanceledError):
        return "If the server is not busy, a role or the database has a very short statement_timeout: reset it."
    if isinstance(error, asyncpg.LockNotAvailableError):
        return "See what is said of locks."
    if isinstance(error, OSError):
        return "Check that Postgres runs, listens there (listen_addresses, port) and can be reached from this machine."
    return None


def _of_the_url(error: BaseException) -> str | None:
    """What to change where waiting does not help, as the sentence of a launch says it."""
    if (found := remedy_for(error)) is None or isinstance(error, asyncpg.PostgresError):
        return None  # the server's answers are explained at greater length here
    return f"{found.remedy[0].upper()}{found.remedy[1:]}."


async def server_version(session: Session) -> list[Finding]:
    """Whether this version of Postgres is supported."""
    server = await session.row(SEE_SERVER)
    major = server["version_number"] // 10000
    says = f"The server is Postgres {server['version']}."
    if major < OLDEST:
        return [problem(f"{says[:-1]}, and dbos_async needs {OLDEST} or newer.", f"Upgrade it to {NEWEST}.")]
    if major > NEWEST:
        advice = f"Look for a newer release of dbos_async; this one was tested with {OLDEST} to {NEWEST}."
        return [warning(f"{says[:-1]}, which is newer than this release of dbos_async.", advice)]
    return [ok(says)]


async def encoding(session: Session) -> list[Finding]:
    """Whether every text can be stored."""
    found = (await session.row(SEE_SERVER))["encoding"]
    if found != "UTF8":
        advice = "Make a new one: create database … encoding 'UTF8' template template0."
        return [problem(f"The database is encoded in {found}, which cannot store every text.", advice)]
    return [ok("The database is encoded in UTF8.")]


async def writable(session: Session) -> list[Finding]:
    """Whether the server takes writes."""
    server = await session.row(SEE_SERVER)
    if server["is_standby"]:
        return [
            problem(
                "This server is a standby and takes no writes.",
                "Name the primary in the URL; with several hosts (host1,host2) dbos_async finds the one that takes writes.",
            )
        ]
    if server["is_read_only"]:
        return [
            problem(
                "Every transaction here is read-only (default_transaction_read_only = on).",
                "Find who has set it, and reset it: alter database … reset default_transaction_read_only, or 'alter role …', "
                "or 'alter system …' with pg_reload_conf(). Some hosts set it when the disk is full: then free space first.",
            )
        ]
    return [ok("The server takes writes.")]


async def clock(session: Session) -> list[Finding]:
    """How far the clock of the server is from that of this machine. Waits go by the server's; people compare."""
    await session.open()
    before = time.time()
    at = (await session.row(SEE_CLOCK))["at"]
    after = time.time()
    off = at - (before + after) / 2
    if abs(off) - (after - before) / 2 > CLOCK_SECONDS:
        side = "ahead of" if off > 0 else "behind"
        return [
            warning(
                f"The clock of the server is {abs(off):.1f} s {side} that of this machine.",
                "Let both follow a time server (NTP). Deadlines go by the server's clock, and logs by the machine's.",
            )
        ]
    return [ok(f"The clocks of the server and of this machine differ by {abs(off) * 1000:.0f} ms.")]


async def listening(session: Session) -> list[Finding]:
    """Whether a notification arrives, and after how long; on a channel of its own."""
    if not session.keeps_sessions:
        return [
            warning("LISTEN was not tried, since the pooler does not keep sessions.", "See what is said of the pooler.")
        ]
    channel = f"dbos_async_doctor_{time.monotonic_ns():x}"
    came = asyncio.Event()

    def hear(*_: object) -> None:
        came.set()

    try:
        hears, tells = await session.connect(), await session.connect()
        with terminated_after(hears, ANSWER_WITHIN_SECONDS):
            await hears.add_listener(channel, hear)
        began = time.monotonic()
        with terminated_after(tells, ANSWER_WITHIN_SECONDS):
            await tells.execute(f"notify {channel}")
    except asyncpg.TooManyConnectionsError:
        raise
    except CONNECT_ERRORS as error:
        return [problem(f"LISTEN and NOTIFY do not work here: {reason_of(error)}.", LISTEN_ADVICE)]
    try:
        async with asyncio.timeout(LISTEN_WITHIN_SECONDS):
            await came.wait()
    except TimeoutError:
        return [problem(f"A notification has not arrived within {LISTEN_WITHIN_SECONDS:g} s.", LISTEN_ADVICE)]
    seconds = time.monotonic() - began
    says = f"A notification arrives after {seconds * 1000:.1f} ms."
    if seconds > SLOW_NOTIFICATION_SECONDS:
        return [warning(says, "Waits end so much later: look at the load of the server.")]
    return [ok(says)]
