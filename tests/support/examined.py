"""Databases with something wrong, for the tests of the doctor: roles with few rights, and what was found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import pytest

from dbos_async._operations.doctor import Finding, examine
from tests.support.databases import execute
from tests.support.postgres import chosen_version, versions

needs_programs = pytest.mark.skipif(
    chosen_version() not in versions(),
    reason="needs the programs of this Postgres, for example those of dbos_async[embedded]",
)
"""For tests that start servers of their own."""

PASSWORD = "its s€cret/p@ss"


@asynccontextmanager
async def new_role(url: str) -> AsyncIterator[tuple[str, str]]:
    """A new role that may connect and nothing else, and the URL with it."""
    name = f"role_{uuid4().hex[:12]}"
    await execute(url, f"create role {name} login password '{PASSWORD}'")
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{name}:{quote(PASSWORD, safe='')}@{host}"
    try:
        yield name, urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))
    finally:
        await execute(url, f"drop owned by {name}", f"drop role {name}")


GRANTS = (
    "grant usage on schema dbos_async to {role}",
    "grant select, insert, update, delete on all tables in schema dbos_async to {role}",
    "grant usage on all sequences in schema dbos_async to {role}",
)
"""What the role of an executor needs."""


async def found_by(url: str, check: str) -> list[Finding]:
    """What one check of an examination found that is not well."""
    return [finding for finding in await examine(url) if finding.check == check and finding.level != "ok"]


def told(findings: list[Finding]) -> str:
    """All that was found as a text, for the message of a test that fails."""
    return "\n".join(f"{finding.level} {finding.check}: {finding.says} {finding.advice}" for finding in findings)
