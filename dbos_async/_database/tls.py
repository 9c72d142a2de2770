"""The certificates that a URL names: those of this machine (``sslrootcert=system``), and files that are not there."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from dbos_async.errors import ConfigurationError

FILES: Final = {"sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "sslcrl": "PGSSLCRL"}
"""The parameters that name a file, and the variables for them."""

SYSTEM: Final = "system"


def system_context(parameters: dict[str, str]) -> ssl.SSLContext | None:
    """Return what trusts the authorities that this machine trusts, if ``sslrootcert=system`` asks for that, as libpq's does."""
    named = with_variables(parameters)
    if named.get("sslrootcert") != SYSTEM:
        return None
    mode = _mode(parameters) or "verify-full"
    if mode != "verify-full":
        raise ConfigurationError(
            f"sslrootcert=system needs sslmode=verify-full in the URL of the database, and not {mode!r:.20}."
        )
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["postgresql"])
    if certificate := named.get("sslcert"):
        context.load_cert_chain(certificate, named.get("sslkey"), password=lambda: parameters.get("sslpassword", ""))
    return context


def verifies_names(parameters: dict[str, str]) -> bool:
    """Return whether the certificate of the server must have the name of the host in it."""
    return _mode(parameters) == "verify-full" or with_variables(parameters).get("sslrootcert") == SYSTEM


def missing_file(parameters: dict[str, str]) -> tuple[str, str] | None:
    """Return the parameter and the path of a file that is named and cannot be read."""
    for name, path in with_variables(parameters).items():
        if path != SYSTEM and not (Path(path).is_file() and os.access(path, os.R_OK)):
            return name, path
    return None


def with_variables(parameters: dict[str, str]) -> dict[str, str]:
    """Return the files that are named, by the URL or else by the environment."""
    found = {name: parameters.get(name) or os.environ.get(variable) for name, variable in FILES.items()}
    return {name: path for name, path in found.items() if path}


def _mode(parameters: dict[str, str]) -> str | None:
    return parameters.get("sslmode") or os.environ.get("PGSSLMODE")
