"""The suite through a pooler: with ``DBOS_TEST_POOLER`` everything of the library reaches the shared server through PgBouncer.

The pooler is in transaction mode and has few connections to the server. ``DBOS_TEST_POOLER=listen_url`` gives each process the
direct URL to listen; with ``DBOS_TEST_POOLER=polling`` nobody listens (`listening.py`). Tests look into the database directly. A
test that makes no sense through a pooler has the marker ``direct``, with the reason. Servers that tests start themselves are
reached directly.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from dbos_async._database.access import Access
from tests.support.database_marker import SERVER
from tests.support.pgbouncer import PgBouncer

POOLER = "DBOS_TEST_POOLER"
PORT = "DBOS_TEST_POOLER_PORT"

is_pooled = POOLER in os.environ
"""Whether this run is one through a pooler."""

_port: str | None = None
"""That of the pooler while it is not gone through."""


def start_pooler(server_url: str) -> PgBouncer:
    """Start the pooler of this run, and tell every process of its port."""
    pooler = PgBouncer(server_url, pool_mode="transaction", default_pool_size="5", server_idle_timeout="30")
    pooler.start()
    os.environ[PORT] = str(pooler.port)
    return pooler


def switch(*, off: bool) -> None:
    """Go directly to the server from now on, or through the pooler again; so do the programs that are started then."""
    global _port
    if off:
        _port = os.environ.pop(PORT, _port)
    elif _port is not None:
        os.environ[PORT], _port = _port, None


def install() -> None:
    """Let each `Access` to the shared server lead through the pooler, also in programs that tests start."""
    check = Access.__post_init__

    def check_and_pool(access: Access) -> None:
        check(access)
        if PORT not in os.environ or not _is_shared(access.url):
            return
        if access.listen_url not in (None, access.url):  # settings that are checked once more have one from here
            return
        direct, parts = access.url, urlsplit(access.url)
        user = parts.username or "postgres"
        object.__setattr__(access, "url", f"postgresql://{user}@127.0.0.1:{os.environ[PORT]}{parts.path}")
        if access.listen:
            object.__setattr__(access, "listen_url", direct)

    setattr(Access, "__post_init__", check_and_pool)  # noqa: B010  # mypy takes an assignment for a mistake


def _is_shared(url: str) -> bool:
    return _place(url) == _place(os.environ.get(SERVER, "")) != ("", "")


def _place(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2], parts.query
