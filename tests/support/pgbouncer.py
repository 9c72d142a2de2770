"""PgBouncer in front of a server, in the mode that a test asks for; Debian has it as the package pgbouncer."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.support.eventually import eventually
from tests.support.postgres import free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@asynccontextmanager
async def pgbouncer(url: str, **settings: str) -> AsyncIterator[str]:
    """The URL of the same database through a PgBouncer with these settings."""
    assert PROGRAM is not None
    parts = urlsplit(url)
    (host,) = parse_qs(parts.query).get("host", [parts.hostname or "127.0.0.1"])
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="dbos-pgbouncer-"))
    lines = {
        "listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "any",
        "logfile": str(folder / "log"), **settings,
    }  # fmt: skip
    password = f" password={parts.password}" if parts.password else ""
    user = parts.username or "postgres"
    (folder / "settings.ini").write_text(
        f"[databases]\n* = host={host} port={parts.port or 5432} user={user}{password}\n"
        "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    account = None
    if os.geteuid() == 0:  # it refuses to run as root
        # The socket of a server of the tests is in a folder that only its account may enter.
        account = Path(host).owner() if host.startswith("/") else "nobody"
        for path in (folder, folder / "settings.ini"):
            shutil.chown(path, account)
    program = await asyncio.to_thread(
        subprocess.Popen,
        [PROGRAM, "-q", str(folder / "settings.ini")], user=account, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await eventually(lambda: _listens(port), "PgBouncer listens")
        yield f"postgresql://{user}@127.0.0.1:{port}{parts.path}"
    finally:
        program.terminate()
        await asyncio.to_thread(program.wait)
        shutil.rmtree(folder, ignore_errors=True)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
