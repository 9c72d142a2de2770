"""TLS with certificates that are verified, of the server and of the client; what is wrong ends a launch at once (D5)."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme

from dbos_async import DBOS, ConfigurationError, DBOSClient
from dbos_async._cli.schema import migrated
from dbos_async._operations.doctor import examine
from tests.support.postgres import SMALL, Server, version_with_tls

pytestmark = pytest.mark.usefixtures("quiet")

HBA = b"""
local all all trust
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 trust
hostnossl all plain 127.0.0.1/32 trust
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_server(programs: None, authority: trustme.CA) -> Iterator[Server]:
    """A server with a certificate for localhost; without TLS it takes the user ``plain`` alone."""
    version = version_with_tls()
    if version is None:
        pytest.skip("needs programs of Postgres that can speak TLS, such as Debian's")
    server = Server(*SMALL, tcp=True, version=version)

    async def create() -> None:
        await server.create()
        for name in ("certified", "plain"):
            await server.execute(f"create role {name} login superuser")
        _certify(server, authority.issue_cert("localhost"))
        server.write("root.crt", authority.cert_pem.bytes())
        server.write("pg_hba.conf", HBA)
        await server.execute("alter system set ssl = on", "alter system set ssl_ca_file = 'root.crt'")
        await server.restart("fast")

    try:
        asyncio.run(create())
        yield server
    finally:
        asyncio.run(server.remove())


@pytest.fixture
def tls(tls_server: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of that server by the name that its certificate has, up to the parameters; files are in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where asyncpg looks for certificates
    authority.cert_pem.write_to_path("ca.pem")
    return f"postgresql://postgres@localhost:{tls_server.port}/postgres?"


def _certify(server: Server, certificate: trustme.LeafCert) -> None:
    server.write("server.crt", b"".join(each.bytes() for each in certificate.cert_chain_pems))
    server.write("server.key", certificate.private_key_pem.bytes())


IS_ENCRYPTED = (
    "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name like 'dbos_async%'"
)


@DBOS.transaction(name="see whether it is encrypted")
async def see_encryption(connection: Any) -> bool:
    return bool(await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()"))


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=require", "sslmode=verify-ca&sslrootcert=ca.pem", "sslmode=verify-full&sslrootcert=ca.pem", "ssl=require",
        "sslmode=prefer", "sslmode=allow", "sslmode=require&sslrootcert=ca.pem", "",
    ],
)  # fmt: skip
async def test_every_connection_is_encrypted_as_the_url_says(tls: str, tls_server: Server, query: str) -> None:
    async with DBOS(tls + query), DBOSClient(tls + query) as client:
        assert await see_encryption()
        assert await client.list_workflows() == []
        connection = await asyncpg.connect(tls + "sslmode=require")
        assert await connection.fetchval(IS_ENCRYPTED)
        await connection.close()
    assert await migrated(tls + query, check=True) == []


async def test_the_authorities_of_this_machine_are_trusted_if_the_url_says_so(
    tls: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tls + "sslmode=verify-full&sslrootcert=system"
    assert "sslrootcert=/path/to/ca.pem" in await _refusal(url)
    monkeypatch.setenv("SSL_CERT_FILE", "ca.pem")  # OpenSSL reads it: now this machine trusts the authority
    async with DBOS(url, listen_url=url.replace("&sslmode=verify-full", "")):
        assert await see_encryption()
    assert "connect by a name" in await _refusal(url.replace("localhost", "127.0.0.1"))
    assert "the file of sslcert, missing.pem, is not there" in await _refusal(f"{url}&sslcert=missing.pem")


@pytest.mark.parametrize(
    ("user", "host", "query", "says"),
    [
        ("postgres", "127.0.0.1", "sslmode=verify-full&sslrootcert=ca.pem",
         r"the server's certificate was refused \(IP address mismatch.*\): connect by a name that is in the certificate\.$"),
        ("postgres", "localhost", "sslmode=verify-full",
         r"root certificate file .* does not exist.*: name the certificate of the server's authority with sslrootcert="),
        ("postgres", "localhost", "sslmode=verify-ca&sslrootcert=other.pem",
         r"the server's certificate was refused \(.*certificate.*\): name the certificate of its authority with sslrootcert="),
        ("postgres", "localhost", "sslmode=verify-full&sslrootcert=missing.pem",
         r"the file of sslrootcert, missing.pem, is not there or cannot be read: correct it in the URL"),
        ("postgres", "localhost", "sslmode=require&sslcert=missing.pem", "the file of sslcert, missing.pem, is not there"),
        ("postgres", "localhost", "sslmode=verify-full&sslrootcert=no.pem", r"TLS failed \(.*\): check sslmode, and the certif"),
        ("postgres", "localhost", "sslmode=disable", "no pg_hba.conf entry .*no encryption: add sslmode=require to the URL"),
        ("certified", "localhost", "sslmode=require", "certificate.*: name the client's certificate and its key with sslcert="),
    ],
)  # fmt: skip
async def test_d5_what_is_wrong_with_tls_ends_a_launch_at_once(
    tls: str, user: str, host: str, query: str, says: str
) -> None:
    trustme.CA().cert_pem.write_to_path("other.pem")
    Path("no.pem").write_text("no certificate")
    url = tls.replace("postgres@localhost", f"{user}@{host}") + query
    await _refused(url, says)
    (found,) = await examine(url)
    assert (found.level, bool(found.advice)) == ("problem", True)


@pytest.mark.parametrize("query", ["sslmode=verify-ca&sslrootcert=other.pem", "sslmode=require&sslcert=missing.pem"])
async def test_d5_at_a_name_with_several_addresses_what_is_wrong_is_said_at_once_too(
    tls: str, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    trustme.CA().cert_pem.write_to_path("other.pem")
    resolve = socket.getaddrinfo

    def resolved(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        names = ["127.0.0.1", "127.0.0.9"] if host == "localhost" else [host]  # nothing listens at the second
        return [found for name in names for found in resolve(name, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    await _refused(tls + query, "the server's certificate was refused|the file of sslcert, missing.pem, is not there")


async def test_d5_a_certificate_that_has_expired_ends_a_launch_at_once(
    tls: str, tls_server: Server, authority: trustme.CA
) -> None:
    now = datetime.now(UTC)
    url = tls + "sslmode=verify-full&sslrootcert=ca.pem"
    _certify(tls_server, authority.issue_cert("localhost", not_before=now - timedelta(9), not_after=now - timedelta(1)))
    try:
        await tls_server.restart("fast")
        await _refused(url, r"was refused \(certificate has expired\): renew that certificate")
        async with DBOSClient(tls + "sslmode=require", migrate=True):
            pass  # which verifies nothing, as in libpq
    finally:
        _certify(tls_server, authority.issue_cert("localhost"))
        await tls_server.restart("fast")
    async with DBOSClient(url, migrate=True):
        pass


async def test_a_client_shows_its_own_certificate(
    tls: str, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = authority.issue_cert(common_name="certified")
    own.cert_chain_pems[0].write_to_path("own.pem")
    own.private_key_pem.write_to_path("own.key")
    url = tls.replace("postgres@", "certified@") + "sslmode=verify-full&sslrootcert=ca.pem"
    async with DBOS(f"{url}&sslcert=own.pem&sslkey=own.key"):
        assert await see_encryption()
    monkeypatch.setenv("PGSSLCERT", "own.pem")
    monkeypatch.setenv("PGSSLKEY", "own.key")
    monkeypatch.setenv("SSL_CERT_FILE", "ca.pem")
    async with DBOSClient(url), DBOSClient(url.replace("ca.pem", "system")):
        pass


@pytest.mark.parametrize("query", ["sslmode=require", "sslmode=verify-full&sslrootcert=ca.pem", "ssl=true"])
async def test_d5_a_server_without_tls_ends_a_launch_at_once(
    own_server: Server, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.chdir(tmp_path)
    authority.cert_pem.write_to_path("ca.pem")
    await _refused(
        f"{own_server.url}?{query}",
        "the server takes no TLS, or is no Postgres: check sslmode in the URL, or set ssl = on",
    )


async def _refused(url: str, says: str) -> None:
    for made in (DBOS(url), DBOSClient(url), DBOS(own_url(url), listen_url=url)):
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match=f"^postgresql://[^?]* cannot be used: .*{says}"):
            async with made:
                pass
        assert time.monotonic() - began < 10, "nothing was waited for"


def own_url(url: str) -> str:
    """The way to the same server on which nothing is wrong."""
    return url.partition("?")[0].replace("certified@", "postgres@")


async def _refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        async with DBOSClient(url):
            pass
    return str(raised.value)
