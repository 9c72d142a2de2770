"""The strings that providers, poolers, ORMs and .env files hold, as this library reads them (D5).

The forms are those that the providers print, with other names and passwords.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest

from dbos_async import DBOS, ConfigurationError, DBOSClient, InvalidArgumentError
from dbos_async._checks import check_url
from dbos_async._database import url_parameters
from dbos_async._database.urls import Host, read_url, shown_url, why_unusable

PASSWORD = "npg_Ab3"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", *url_parameters.OF_THE_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)
    url_parameters._warn.cache_clear()  # it warns once in a process


NEON = "ep-cool-darkness-123456.us-east-2.aws.neon.tech"
NEON_POOLER = "ep-cool-darkness-123456-pooler.us-east-2.aws.neon.tech"
SUPABASE = "aws-0-eu-central-1.pooler.supabase.com"
RDS = "shop.c9akciq32.eu-west-1.rds.amazonaws.com"
SOCKET = "/cloudsql/my-project:europe-west1:shop"
REQUIRE = {"sslmode": "require"}
ALL_OF_TLS = (
    "sslmode=verify-full&sslrootcert=system&sslnegotiation=direct&sslcert=/c&sslkey=/k&sslpassword=x&sslcrl=/r"
    "&ssl_min_protocol_version=TLSv1.3"
)

PROVIDERS: dict[str, tuple[str, tuple[str, str, int, str], dict[str, str], dict[str, str]]] = {
    "Neon": (
        f"postgresql://alex:{PASSWORD}@{NEON}/shop?sslmode=require&channel_binding=require",
        ("alex", NEON, 5432, "shop"), REQUIRE, {},
    ),
    "Neon, pooled, for Prisma": (
        f"postgresql://alex:{PASSWORD}@{NEON_POOLER}/shop?sslmode=require&pgbouncer=true&connect_timeout=15&pool_timeout=15",
        ("alex", NEON_POOLER, 5432, "shop"), REQUIRE, {},
    ),
    "Neon, for clients without SNI": (
        f"postgresql://alex:{PASSWORD}@{NEON}/shop?options=endpoint%3Dep-cool-darkness-123456&sslmode=require",
        ("alex", NEON, 5432, "shop"), REQUIRE, {"options": "endpoint=ep-cool-darkness-123456"},
    ),
    "Neon, by project": (
        f"postgres://alex:{PASSWORD}@{NEON}/shop?sslmode=require&options=project%3Dcool-darkness-123456",
        ("alex", NEON, 5432, "shop"), REQUIRE, {"options": "project=cool-darkness-123456"},
    ),
    "Vercel": (
        f'POSTGRES_PRISMA_URL="postgres://default:{PASSWORD}@{NEON_POOLER}:5432/verceldb?sslmode=require&supa=base-pooler.x"'
        .partition("=")[2],
        ("default", NEON_POOLER, 5432, "verceldb"), REQUIRE, {},
    ),
    "Supabase, direct": (
        f"postgresql://postgres:{PASSWORD}@db.abcdefghij.supabase.co:5432/postgres",
        ("postgres", "db.abcdefghij.supabase.co", 5432, "postgres"), {}, {},
    ),
    "Supabase, transaction pooler": (
        f"postgresql://postgres.abcdefghij:{PASSWORD}@{SUPABASE}:6543/postgres?pgbouncer=true&connection_limit=1",
        ("postgres.abcdefghij", SUPABASE, 6543, "postgres"), {}, {},
    ),
    "Supabase at Vercel": (
        f"postgres://postgres.abcdefghij:{PASSWORD}@{SUPABASE}:6543/postgres?supa=base-pooler.x&workaround=supabase-pooler.vercel",
        ("postgres.abcdefghij", SUPABASE, 6543, "postgres"), {}, {},
    ),
    "Amazon RDS": (
        f"postgresql://app:{PASSWORD}@{RDS}:5432/shop?sslmode=verify-full&sslrootcert=/certs/global-bundle.pem",
        ("app", RDS, 5432, "shop"), {"sslmode": "verify-full", "sslrootcert": "/certs/global-bundle.pem"}, {},
    ),
    "Amazon RDS, as its console prints it": (
        f"host={RDS} port=5432 dbname=shop user=app sslmode=verify-full sslrootcert=/certs/global-bundle.pem password={PASSWORD}",
        ("app", RDS, 5432, "shop"), {"sslmode": "verify-full", "sslrootcert": "/certs/global-bundle.pem"}, {},
    ),
    "Azure": (
        f"postgresql://shopadmin:{PASSWORD}@shop.postgres.database.azure.com:5432/postgres?sslmode=require",
        ("shopadmin", "shop.postgres.database.azure.com", 5432, "postgres"), REQUIRE, {},
    ),
    "Azure, Entra user": (
        "postgresql://app%40contoso.onmicrosoft.com@shop.postgres.database.azure.com/postgres?sslmode=require",
        ("app@contoso.onmicrosoft.com", "shop.postgres.database.azure.com", 5432, "postgres"), REQUIRE, {},
    ),
    "Azure, keywords": (
        f"host=shop.postgres.database.azure.com port=5432 dbname={{database}} user=shopadmin password={PASSWORD} sslmode=require",
        ("shopadmin", "shop.postgres.database.azure.com", 5432, "{database}"), REQUIRE, {},
    ),
    "Heroku": (
        f"postgres://u4u4u4:{PASSWORD}@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d1d1d1",
        ("u4u4u4", "ec2-1-2-3-4.compute-1.amazonaws.com", 5432, "d1d1d1"), {}, {},
    ),
    "Render": (
        f"postgresql://shop_user:{PASSWORD}@dpg-abc123-a.frankfurt-postgres.render.com/shop_q1w2",
        ("shop_user", "dpg-abc123-a.frankfurt-postgres.render.com", 5432, "shop_q1w2"), {}, {},
    ),
    "Fly": (
        f"postgres://shop:{PASSWORD}@shop-db.flycast:5432/shop?sslmode=disable",
        ("shop", "shop-db.flycast", 5432, "shop"), {"sslmode": "disable"}, {},
    ),
    "Fly, managed": (
        f"postgresql://fly-user:{PASSWORD}@pgbouncer.9g6y30w2.flympg.net/fly-db",
        ("fly-user", "pgbouncer.9g6y30w2.flympg.net", 5432, "fly-db"), {}, {},
    ),
    "Google Cloud SQL, socket": (
        f"postgresql://app:{PASSWORD}@/shop?host={SOCKET}", ("app", SOCKET, 5432, "shop"), {}, {},
    ),
    "Google Cloud SQL, socket as the host": (
        f"postgresql+asyncpg://app:{PASSWORD}@%2Fcloudsql%2Fmy-project%3Aeurope-west1%3Ashop/shop",
        ("app", SOCKET, 5432, "shop"), {}, {},
    ),
    "DigitalOcean": (
        f"postgresql://doadmin:{PASSWORD}@db-postgresql-fra1-1.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
        ("doadmin", "db-postgresql-fra1-1.b.db.ondigitalocean.com", 25060, "defaultdb"), REQUIRE, {},
    ),
    "Railway": (
        f"postgresql://postgres:{PASSWORD}@containers-us-west-1.railway.app:7432/railway",
        ("postgres", "containers-us-west-1.railway.app", 7432, "railway"), {}, {},
    ),
    "Crunchy Bridge": (
        f"postgres://application:{PASSWORD}@p.abcdef.db.postgresbridge.com:5432/postgres",
        ("application", "p.abcdef.db.postgresbridge.com", 5432, "postgres"), {}, {},
    ),
    "Timescale": (
        f"postgres://tsdbadmin:{PASSWORD}@abc.def.tsdb.cloud.timescale.com:30477/tsdb?sslmode=require",
        ("tsdbadmin", "abc.def.tsdb.cloud.timescale.com", 30477, "tsdb"), REQUIRE, {},
    ),
    "SQLAlchemy with asyncpg": (
        f"postgresql+asyncpg://app:{PASSWORD}@db/shop?ssl=require&prepared_statement_cache_size=0&async_fallback=true",
        ("app", "db", 5432, "shop"), REQUIRE, {},
    ),
    "SQLAlchemy with psycopg": (
        f"postgresql+psycopg://app:{PASSWORD}@db:5433/shop?sslmode=require&application_name=shop&prepare_threshold=0",
        ("app", "db", 5433, "shop"), REQUIRE, {"application_name": "shop"},
    ),
    "Django": (f"postgis://app:{PASSWORD}@db/shop?conn_max_age=60", ("app", "db", 5432, "shop"), {}, {}),
    "Prisma": (
        f"postgresql://app:{PASSWORD}@db:5432/shop?schema=public&connection_limit=5&socket_timeout=3&statement_cache_size=0",
        ("app", "db", 5432, "shop"), {}, {},
    ),
    "Prisma, another schema": (
        f"postgresql://app:{PASSWORD}@db:5432/shop?schema=store", ("app", "db", 5432, "shop"), {}, {"search_path": "store"},
    ),
    "parameters of JDBC": (
        f"postgresql://db/shop?user=app&password={PASSWORD}&currentSchema=store&ssl=true&ApplicationName=till&prepareThreshold=0",
        ("app", "db", 5432, "shop"), REQUIRE, {"search_path": "store", "application_name": "till"},
    ),
    "Rails": (
        f"postgresql://app:{PASSWORD}@db/shop?encoding=utf8&pool=5&prepared_statements=false&reconnect=true",
        ("app", "db", 5432, "shop"), {}, {},
    ),
    "settings of the server": (
        f"postgresql://app:{PASSWORD}@db/shop?jit=off&statement_timeout=5s&keepalives=1&keepalives_idle=30&gssencmode=disable",
        ("app", "db", 5432, "shop"), {}, {"jit": "off", "statement_timeout": "5s"},
    ),
    "libpq with all of TLS": (
        f"postgresql://app:{PASSWORD}@db/shop?{ALL_OF_TLS}&sslsni=1&sslcompression=0",
        ("app", "db", 5432, "shop"),
        {
            "sslmode": "verify-full", "sslrootcert": "system", "sslnegotiation": "direct", "sslcert": "/c", "sslkey": "/k",
            "sslpassword": "x", "sslcrl": "/r", "ssl_min_protocol_version": "TLSv1.3",
        },
        {},
    ),
    "a .env file with its quotes": (f"  'postgresql://app:{PASSWORD}@db/shop'\n", ("app", "db", 5432, "shop"), {}, {}),
}  # fmt: skip


@pytest.mark.parametrize("provider", PROVIDERS)
def test_d5_the_string_of_a_provider_is_understood(provider: str, caplog: pytest.LogCaptureFixture) -> None:
    given, (user, name, port, database), for_asyncpg, settings = PROVIDERS[provider]
    read = read_url(given)
    assert (read.user, read.hosts, read.database) == (user, (Host(name, port),), database)
    assert read.password in (PASSWORD, None)
    assert (read.for_asyncpg, read.settings) == (for_asyncpg, settings)
    lost = ["channel_binding"] if "channel_binding=require" in given else []
    assert [one.getMessage().partition(" asks for ")[2].partition(",")[0] for one in caplog.records] == lost
    for told in (shown_url(given), repr(read), why_unusable(given, OSError("away")), caplog.text):
        assert PASSWORD not in told
    assert shown_url(given).startswith("postgresql://")
    for make in (DBOS, DBOSClient):
        make(given)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@h1:5433,h2/db", [("h1", 5433), ("h2", 5432)]),
        ("postgresql://u:p@h1,h2/db?port=5433", [("h1", 5433), ("h2", 5433)]),
        ("postgresql://h1,[::1]:7/db", [("h1", 5432), ("::1", 7)]),
        ("postgresql:///db?host=/run/a,h2&port=1,2", [("/run/a", 1), ("h2", 2)]),
        ("postgresql:///db?host=::1&port=6", [("::1", 6)]),
        ("postgresql+psycopg2://u:p@/db?host=h1:5433&host=h2:5434", [("h1", 5433), ("h2", 5434)]),
        ("postgresql+psycopg2://u:p@/db?host=h1&host=h2&port=5433&port=5434", [("h1", 5433), ("h2", 5434)]),
        ("postgresql://u:p,w@h1/db", [("h1", 5432)]),
        ("postgresql://u:@/db?host=/run/a", [("/run/a", 5432)]),
        ("postgresql:///db?hostaddr=127.0.0.1&port=1", [("127.0.0.1", 1)]),
        ("postgresql://h/db?hostaddr=127.0.0.1", [("h", 5432)]),
        ("host=h1,h2 port=1,2", [("h1", 1), ("h2", 2)]),
        (r"host='/run/it\'s' dbname=x", [("/run/it's", 5432)]),
        ("postgresql://", [None]),
        ("postgresql:", [None]),
        ("postgresql:///db?service=shop", [None]),
    ],
)
def test_the_hosts_of_a_url(url: str, hosts: list[Any]) -> None:
    assert read_url(url).hosts == tuple(host and Host(*host) for host in hosts)


def test_the_hosts_and_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PGHOST": "a,b", "PGPORT": "1,2", "PGOPTIONS": "-c jit=off", "PGCONNECT_TIMEOUT": "7", "PGTARGETSESSIONATTRS": "any",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    read = read_url("postgresql:///shop")
    assert read.hosts == (Host("a", 1), Host("b", 2))
    assert (read.settings, read.connect_seconds, read.target_session_attrs) == ({"options": "-c jit=off"}, 7, "any")
    assert read_url("postgresql://h:9/db?connect_timeout=3").connect_seconds == 3, "the URL is first"
    assert read_url("postgresql://h:9/db?connect_timeout=0").connect_seconds is None, "0 leaves it open, as in libpq"


def test_what_is_encoded_is_decoded() -> None:
    read = read_url(
        "postgresql://app%40x:p%2Fw%3F%23%40%25+%C3%A4@h/my%20shop?application_name=a+b%26c&options=-c%20jit%3Doff"
    )
    assert (read.user, read.password, read.database) == ("app@x", "p/w?#@%+ä", "my shop")
    assert read.settings == {"application_name": "a b&c", "options": "-c jit=off"}
    read = read_url(r"host=h user=app password='it\'s \\ a = secret' options='-c search_path=a,b'")
    assert (read.password, read.settings) == (r"it's \ a = secret", {"options": "-c search_path=a,b"})


WRONG: dict[str, str] = {
    "mysql://app:secret@db/shop": r"since it begins with mysql:// and not with postgresql://:",
    "app:secret@db/shop": "since it does not begin with postgresql://:",
    "jdbc:postgresql://db/shop?password=secret": "since it does not begin with postgresql://:",
    "psql 'postgresql://app:secret@db/shop'": "since it does not begin with postgresql://:",
    "DATABASE_URL=postgresql://app:secret@db/shop": "since it does not begin with postgresql://:",
    "Server=db;Database=shop;User Id=app;Password=secret;": "since it does not begin with postgresql://:",
    "postgresql:app:secret@db/shop": "since it (begins with postgresql.asyncpg: and|does) not .*with postgresql://",
    "postgresql+asyncpg:/app:secret@db": "since it (begins with postgresql.asyncpg: and|does) not .*with postgresql://",
    "postgresql://app:se@cret@db/shop": "more than one @",
    "postgresql://app:se/cret@db/shop": "one behind / [?] #",
    "postgresql://app:se?cret@db/shop": "one behind / [?] #",
    "postgresql://app:se#cret@db/shop": "one behind / [?] #",
    "postgresql://db/shop?password=se#cret": "it has a # in it",
    "postgresql://db:5432:secret/shop": "its port is no number",
    "postgresql://db,/shop?password=secret": "stands for a host is none",
    "postgresql://app:secret@db:x/shop": "its port is no number",
    "postgresql://app:secret@::1/shop": "stands for a host is none",
    "postgresql:///shop?host=a,b&port=1,2,3&password=secret": "2 hosts and 3 ports",
    "postgresql:///shop?host=a&port=70000&password=secret": "a port is not a number from 1 to 65535",
    "postgresql://app:secret@db/shop?sslmode": "a parameter behind the [?] has no =",
    "postgresql://app:sec\nret@db/shop": "a line end, a tab",
    "postgresql://app:secret%ff@db/shop": "is no UTF-8",
    "postgresql://app:secret%00@db/shop": "a NUL character",
    "postgresql://app:secret@db/shop?connect_timeout=soon": "whole number of seconds",
    "host=db password=it is secret": "a value with blanks has no quotes",
    "host=db dbname=postgresql://app:secret@db": "its dbname is a URL itself",
}


@pytest.mark.parametrize("given", WRONG)
def test_d5_what_cannot_be_read_is_explained_and_not_shown(given: str) -> None:
    with pytest.raises(ConfigurationError, match=WRONG[given]) as raised:
        read_url(given)
    told = [str(raised.value), why_unusable(given, OSError("x")), shown_url(given)]
    assert not any("secret" in each or "ret" in each.replace("requires", "") for each in told), told
    assert all("\n" not in each for each in told)


@pytest.mark.parametrize("given", list(WRONG))
async def test_d5_a_launch_refuses_it_at_once(given: str) -> None:
    for make in (DBOS, DBOSClient):
        with pytest.raises(ConfigurationError):
            async with make(given):
                pass
    with pytest.raises(ConfigurationError):
        async with DBOSClient("postgresql://127.0.0.1:1/x", listen_url=given):
            pass


def test_blanks_around_a_url_are_none_of_it() -> None:
    assert check_url(" \n postgresql://h/db\r\n") == "postgresql://h/db"
    with pytest.raises(InvalidArgumentError, match="must not be empty"):
        check_url(" \n ")


async def test_d5_a_blank_variable_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBOS_DATABASE_URL", " \n")
    for opened in (DBOS(), DBOSClient()):
        with pytest.raises(ConfigurationError, match="DBOS_DATABASE_URL is blank"):
            async with opened:
                pass


@pytest.mark.parametrize("wanted", ["standby", "prefer-standby", "read-only", "nearest"])
async def test_d5_a_url_that_asks_for_a_standby_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="target_session_attrs"):
        async with DBOS(f"postgresql://127.0.0.1:1/x?target_session_attrs={wanted}"):
            pass


async def test_d5_the_certificates_of_this_machine_are_for_full_verification() -> None:
    for given in ("sslrootcert=system&sslmode=require", "sslmode=verify-ca&sslrootcert=system"):
        with pytest.raises(ConfigurationError, match="sslrootcert=system needs sslmode=verify-full"):
            async with DBOSClient(f"postgresql://127.0.0.1:1/x?{given}"):
                pass


def test_each_lost_protection_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("dbos_async").setLevel(logging.INFO)
    for _ in range(2):
        read_url(
            "postgresql://h/db?channel_binding=require&require_auth=scram-sha-256&sslaccept=strict&gssencmode=require"
        )
    read_url(
        "postgresql://h/db?channel_binding=prefer&gssencmode=prefer&sslaccept=accept_invalid_certs&sslcertmode=allow"
    )
    lost = [one.getMessage().split()[7] for one in caplog.records]
    assert lost == ["channel_binding,", "require_auth,", "sslaccept,", "gssencmode,"]
