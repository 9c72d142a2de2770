"""What the parameters of a URL mean: providers, poolers, ORMs and other drivers write theirs into it, too.

Three kinds are understood: those of asyncpg, those that this library honours itself, and settings of the session, which the server
knows. The rest is left out. The log says so only where a protection is lost.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from typing import Final

import asyncpg

from dbos_async.errors import ConfigurationError

_log = logging.getLogger("dbos_async")

OF_ASYNCPG: Final = frozenset({
    "gsslib", "krbsrvname", "passfile", "service", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcrl",
    "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert",
})  # fmt: skip
"""What asyncpg reads from a URL, besides the place of the database and who connects."""

OF_LIBPQ_ONLY: Final = frozenset({
    "channel_binding", "client_encoding", "fallback_application_name", "gssdelegation", "gssencmode", "keepalives",
    "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts", "max_protocol_version",
    "min_protocol_version", "oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope", "replication", "require_auth",
    "requirepeer", "requiressl", "scram_client_key", "scram_server_key", "servicefile", "sslcertmode", "sslcompression",
    "sslcrldir", "sslkeylogfile", "sslsni", "tcp_user_timeout",
})  # fmt: skip
"""What libpq knows, and asyncpg would take for settings of the server, which would refuse them."""

OF_OTHERS: Final = frozenset({
    # Prisma, and the strings of Supabase and Vercel that are made for it
    "connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "pgbouncer", "pool_timeout",
    "single_use_connections", "socket_timeout", "sslaccept", "sslidentity", "statement_cache_size", "supa", "workaround",
    # SQLAlchemy and its drivers, `databases`, Django
    "async_fallback", "command_timeout", "conn_health_checks", "conn_max_age", "max_cacheable_statement_size",
    "max_cached_statement_lifetime", "max_overflow", "max_size", "min_size", "pool_pre_ping", "pool_recycle", "pool_size",
    "prepare_threshold", "prepared_statement_cache_size", "prepared_statement_name_func", "timeout",
    # node-postgres, Rails, Go, JDBC
    "binary_parameters", "connecttimeout", "default_query_exec_mode", "encoding", "loadbalancehosts", "logintimeout", "pool",
    "pool_health_check_period", "pool_max_conn_idle_time", "pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter",
    "pool_max_conns", "pool_min_conns", "prepared_statements", "preparedstatementcachequeries", "preparedstatementcachesizemib",
    "preparethreshold", "reconnect", "rewritebatchedinserts", "sockettimeout", "sslfactory", "statement_cache_capacity",
    "stringtype", "targetservertype", "tcpkeepalive", "uselibpqcompat",
})  # fmt: skip
"""What poolers, ORMs and other drivers read, in lower case. It says nothing to the server."""

PROTECTS: Final = frozenset({
    "channel_binding=require", "gssencmode=require", "require_auth", "requirepeer", "sslaccept=strict", "sslcertmode=require",
    "sslidentity",
})  # fmt: skip
"""Those that ask for a protection which asyncpg does not have."""

SAME: Final = {"applicationname": "application_name", "currentschema": "search_path", "schema": "search_path"}
"""Settings of the session under the names that JDBC and Prisma have for them."""

SSL_MODES: Final = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})

OF_THE_ENVIRONMENT: Final = {
    "PGCHANNELBINDING": "channel_binding",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGGSSENCMODE": "gssencmode",
    "PGOPTIONS": "options",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
    "PGSERVICE": "service",
    "PGSSLCERTMODE": "sslcertmode",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}
"""What libpq reads from the environment and asyncpg does not. The rest of ``PG…`` asyncpg reads itself."""


KNOWS_SERVICES: Final = "service" in inspect.signature(asyncpg.connect).parameters
"""Whether this release of asyncpg does."""


def with_environment(parameters: dict[str, str]) -> dict[str, str]:
    """Return the parameters with what the environment says that they do not."""
    found = {name: os.environ.get(variable, "") for variable, name in OF_THE_ENVIRONMENT.items()}
    if not KNOWS_SERVICES:
        del found["service"]
    return {name: value for name, value in found.items() if value} | parameters


def split(parameters: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return those for asyncpg, and the settings of the session. The log names each protection that is left out, once."""
    for_asyncpg: dict[str, str] = {}
    settings: dict[str, str] = {}
    for given, value in parameters.items():
        name = given if given in OF_ASYNCPG else SAME.get(given.lower(), given)
        if name in PROTECTS or f"{name}={value}" in PROTECTS:
            _warn(name)
        if name == "ssl":
            for_asyncpg.setdefault("sslmode", _ssl_mode(value))
        elif name in OF_ASYNCPG:
            for_asyncpg[name] = value
        elif name in OF_LIBPQ_ONLY or name.lower() in OF_OTHERS:
            continue
        elif given == "schema" and value == "public":
            continue  # Prisma writes it into every URL; poolers refuse settings, and this is the usual one
        else:
            settings[name] = value
    return for_asyncpg, settings


def seconds_of(connect_timeout: str | None) -> float | None:
    """Return how long a host may take to accept a connection; ``None`` if the URL leaves that open, as 0 does."""
    if connect_timeout is None:
        return None
    try:
        seconds = int(connect_timeout)
    except ValueError:
        raise ConfigurationError(
            "connect_timeout in the URL of the database must be a whole number of seconds."
        ) from None
    return float(seconds) if seconds > 0 else None


def _ssl_mode(value: str) -> str:
    # SQLAlchemy's asyncpg takes a mode here, node-postgres and JDBC a truth value.
    if value in SSL_MODES:
        return value
    return "disable" if value.lower() in ("false", "0", "off", "no") else "require"


@functools.cache  # once in a process
def _warn(name: str) -> None:
    _log.warning("The URL of the database asks for %s, which asyncpg does not have: it is left out.", name)
