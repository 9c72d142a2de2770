"""A real Postgres from a wheel, for programs that were given no database."""

from __future__ import annotations

from pathlib import Path


class EmbeddedPostgres:
    url: str

    async def stop(self) -> None: ...


async def start(directory: Path | None = None) -> EmbeddedPostgres:
    raise NotImplementedError
