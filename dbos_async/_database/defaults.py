"""Defaults of the role and the database that would change what a statement means.

The library sets them for its own sessions. Behind a pooler that drops what a client sets at the start, they count; then one
sentence says what to change.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from dbos_async.errors import ConfigurationError

SEE: Final = """
    select current_setting('transaction_isolation') as default_transaction_isolation,
           current_setting('standard_conforming_strings') as standard_conforming_strings
"""

NEEDED: Final = {"default_transaction_isolation": "read committed", "standard_conforming_strings": "on"}


async def check(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Raise `ConfigurationError` if a session of the library does not have what it needs."""
    seen = await connection.fetchrow(SEE)
    assert seen is not None
    for name, needed in NEEDED.items():
        if seen[name] != needed:
            raise ConfigurationError(
                f"Sessions of this role have {name} = {seen[name]!r}, and dbos_async needs {needed!r}, which a pooler may keep it "
                f"from setting: alter role … set {name} = '{needed}' for a role of its own, or alter database … reset {name}."
            )
