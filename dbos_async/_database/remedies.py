"""What to change when a connection cannot be opened and no waiting helps."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final, NamedTuple

import asyncpg

from dbos_async._database.passwords import PasswordError

UNKNOWN_HOST: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""Other errors of name resolution, as EAI_AGAIN, may be over soon."""

BROKEN: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""The connection ended under the handshake: the server may just stop or start."""

WRONG_NAME: Final = frozenset({62, 64})
EXPIRED: Final = frozenset({9, 10})
"""What OpenSSL says of a certificate: it is for another host or address; it is not valid yet, or no longer."""


class Remedy(NamedTuple):
    """What to change, and the reason in better words than the error's own, if it has none that help."""

    remedy: str
    reason: str | None = None


def remedy_for(error: BaseException) -> Remedy | None:
    """Return what to change so that this error of a new connection goes away; ``None`` where waiting may help, or nobody knows."""
    if isinstance(error, PasswordError):
        return Remedy("call it by itself to see more")
    if isinstance(error, asyncpg.PostgresError) and "statement pooling mode" in str(error):
        return Remedy("set its pool_mode to transaction or session", "a pooler in statement mode is in front of it")
    if isinstance(error, asyncpg.PostgresError):
        return _of_the_server(error)
    if isinstance(error, ssl.SSLError):
        return None if isinstance(error, BROKEN) else _of_tls(error)
    if isinstance(error, socket.gaierror):
        if error.errno not in UNKNOWN_HOST:
            return None
        return Remedy("check the name in the URL", f"its host is not known ({error.strerror})")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return Remedy(
            "name the primary, or all hosts of which one takes writes",
            "it is a standby, or takes no writes (default_transaction_read_only)",
        )
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return Remedy(
            "check sslmode in the URL, or set ssl = on at the server",
            "the server takes no TLS, or is no Postgres",
        )
    if isinstance(error, asyncpg.ClientConfigurationError) and "root certificate" in str(error):
        return Remedy(
            "name the certificate of the server's authority with sslrootcert=/path/to/ca.pem, or sslrootcert=system for those "
            "that this machine trusts"
        )
    if isinstance(error, asyncpg.ClientConfigurationError | ValueError):
        return Remedy("correct it in the URL, or in the PG… variables")
    return None


def may_pass(error: BaseException) -> bool:
    """Return whether the error may be over after a while, though it has a remedy: one host of several may be a standby."""
    return remedy_for(error) is None or isinstance(error, asyncpg.TargetServerAttributeNotMatched)


_OF_THE_SERVER: Final[tuple[tuple[type[asyncpg.PostgresError], str, str], ...]] = (
    (asyncpg.InvalidPasswordError, "", "check the user and the password"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "no pg_hba.conf entry.*no encryption",
        "add sslmode=require to the URL, or a line to pg_hba.conf that lets this user connect from here without TLS",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "pg_hba.conf",
        "a line of pg_hba.conf, or the host's list of trusted addresses, must let this user connect from here to this database",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "certificate",
        "name the client's certificate and its key with sslcert=… and sslkey=… in the URL",
    ),
    (asyncpg.InvalidAuthorizationSpecificationError, "", "check the user of the URL"),
    (asyncpg.InvalidCatalogNameError, "", "create the database, or name another one in the URL"),
    (asyncpg.InsufficientPrivilegeError, "", "grant the role this right, or connect as another role"),
    (asyncpg.UndefinedObjectError, "configuration parameter", "take it out of the URL"),
    (asyncpg.ProtocolViolationError, "startup parameter", "take it out of the URL, or let the pooler ignore it"),
    (asyncpg.PostgresSyntaxError, "command-line argument", "correct the options of the URL"),
    (asyncpg.DataError, "parameter", "correct it in the URL"),
    (asyncpg.CantChangeRuntimeParamError, "", "take it out of the URL"),
)
"""The class of the error, what its message has in it, and what to do."""


def _of_the_server(error: asyncpg.PostgresError) -> Remedy | None:
    message = str(error)
    for kind, words, remedy in _OF_THE_SERVER:
        if isinstance(error, kind) and re.search(words, message):
            return Remedy(remedy)
    return None


def _of_tls(error: ssl.SSLError) -> Remedy:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"the server's certificate was refused ({error.verify_message.rstrip('.')})"
        if error.verify_code in WRONG_NAME:
            return Remedy("connect by a name that is in the certificate", reason)
        if error.verify_code in EXPIRED:
            return Remedy("renew that certificate, or correct the clock of this machine", reason)
        return Remedy(
            "name the certificate of its authority with sslrootcert=/path/to/ca.pem, or sslrootcert=system for those that this "
            "machine trusts",
            reason,
        )
    reason = re.sub(r" ?\(_ssl\.c:\d+\)$|^\[[^\]]*\] ?", "", str(error)) or type(error).__name__
    return Remedy("check sslmode, and the certificates and keys that the URL names", f"TLS failed ({reason})")
